"""`kind: distill`: a teacher's samples, fine-tuning of a student on their text, RL on top."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="distill",
    version=1,
    summary="distillation: a teacher's samples, a student trained on them, RL on top",
    recipe="rethink.kinds.distill.recipe:DistillRecipe",
    run="rethink.kinds.pipeline.run:run_pipeline",
    plan="rethink.kinds.pipeline.show:plan",
    show="rethink.kinds.pipeline.show:show",
    stages="rethink.kinds.distill.recipe:as_pipeline",
    parts="rethink.kinds.distill.recipe:parts",
    card="distillation: supervised fine-tuning on a teacher's completions",
)
