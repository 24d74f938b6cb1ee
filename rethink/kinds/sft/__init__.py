"""`kind: sft`: supervised fine-tuning on conversations or samples."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="sft",
    version=1,
    summary="supervised fine-tuning on conversations or samples",
    recipe="rethink.kinds.sft.recipe:SFTRecipe",
    run="rethink.kinds.sft.run:train_sft",
    plan="rethink.kinds.sft.plan:plan",
    show="rethink.kinds.sft.show:show",
    outputs={"model": "model", "folder": "."},
    lanes="rethink.kinds.sft.wire:LANES",
    trains=True,
    evaluated=True,
    costs="rethink.kinds.sft.plan:costs",
    charts="rethink.kinds.sft.charts:CHARTS",
    card="supervised fine-tuning on the data below",
)
