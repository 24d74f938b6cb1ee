"""`kind: iterative`: rounds of GRPO, with a reward model that is trained further between them."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="iterative",
    version=1,
    summary="iterative GRPO: rounds of GRPO, with a reward model that is trained further on each round's rollouts",
    recipe="rethink.kinds.iterative.recipe:IterativeRecipe",
    run="rethink.kinds.pipeline.run:run_pipeline",
    plan="rethink.kinds.pipeline.show:plan",
    show="rethink.kinds.pipeline.show:show",
    stages="rethink.kinds.iterative.recipe:as_pipeline",
    parts="rethink.kinds.iterative.recipe:parts",
)
