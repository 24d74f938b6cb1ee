"""`kind: samples`: rejection sampling: completions drawn, filtered, chosen, rewritten and mixed for fine-tuning."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="samples",
    version=1,
    summary="rejection sampling: completions drawn, filtered and mixed for fine-tuning",
    recipe="rethink.kinds.samples.recipe:CurateRecipe",
    run="rethink.kinds.samples.run:curate",
    plan="rethink.kinds.samples.plan:plan",
    show="rethink.kinds.samples.show:show",
    outputs={"train": "train.jsonl", "samples": "samples.jsonl", "folder": "."},
    samples=True,
    costs="rethink.kinds.samples.plan:costs",
    drawn="rethink.kinds.samples.plan:drawn",
    samples_elsewhere="rethink.kinds.samples.plan:samples_elsewhere",
    said="rethink.kinds.samples.show:said",
    checked="rethink.kinds.samples.plan:checked",
    counts_data=True,
)
