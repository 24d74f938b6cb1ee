"""`kind: reward-model`: a value head on a language model, trained on preferences or labels."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="reward-model",
    version=1,
    summary="a reward model from preference pairs or labelled responses",
    recipe="rethink.kinds.reward_model.recipe:RewardModelRecipe",
    run="rethink.kinds.reward_model.run:train_reward_model",
    plan="rethink.kinds.reward_model.plan:plan",
    show="rethink.kinds.reward_model.show:show",
    outputs={"model": "model", "pairs": "pairs.jsonl", "folder": "."},
    lanes="rethink.kinds.reward_model.wire:LANES",
    trains=True,
    costs="rethink.kinds.reward_model.plan:costs",
    charts="rethink.kinds.reward_model.charts:CHARTS",
    sections="rethink.kinds.reward_model.charts:sections",
    card="training of a reward model on the examples below",
    counts_data=True,
)
