"""`kind: preference`: a language model trained on preferences, without sampling: DPO and its family."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="preference",
    version=1,
    summary="DPO and its family: training on pairs of answers, or on answers with a label",
    recipe="rethink.kinds.preference.recipe:PreferenceRecipe",
    run="rethink.kinds.preference.run:train_preference",
    plan="rethink.kinds.preference.plan:plan",
    show="rethink.kinds.preference.show:show",
    outputs={"model": "model", "pairs": "pairs.jsonl", "folder": "."},
    lanes="rethink.kinds.preference.wire:LANES",
    trains=True,
    evaluated=True,
    costs="rethink.kinds.preference.plan:costs",
    charts="rethink.kinds.preference.charts:CHARTS",
    sections="rethink.kinds.reward_model.charts:sections",
    card="training on preferences with {objective} on the data below",
    counts_data=True,
)
