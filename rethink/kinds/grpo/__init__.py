"""`kind: grpo`: reinforcement learning with groups of rollouts and rewards."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="grpo",
    version=2,
    summary="reinforcement learning: GRPO and its family, with rule-based rewards",
    recipe="rethink.kinds.grpo.recipe:Recipe",
    run="rethink.kinds.grpo.run:train",
    plan="rethink.kinds.grpo.plan:plan",
    show="rethink.kinds.grpo.show:show",
    outputs={"model": "model", "best": "best", "folder": "."},
    lanes="rethink.kinds.grpo.wire:LANES",
    trains=True,
    samples=True,
    evaluated=True,
    costs="rethink.kinds.grpo.plan:costs",
    drawn="rethink.kinds.grpo.plan:drawn",
    keeps="rethink.kinds.grpo.plan:keeps",
    said="rethink.kinds.grpo.show:said",
    checked="rethink.kinds.grpo.plan:checked",
    rollouts=True,
    card="reinforcement learning with {objective} and the rewards below",
)
