"""`kind: pipeline`: stages that use each other's outputs, each run once."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="pipeline",
    version=1,
    summary="stages that use each other's outputs, each run once",
    recipe="rethink.kinds.pipeline.recipe:PipelineRecipe",
    run="rethink.kinds.pipeline.run:run_pipeline",
    plan="rethink.kinds.pipeline.show:plan",
    show="rethink.kinds.pipeline.show:show",
    stages="rethink.kinds.pipeline.recipe:itself",
)
