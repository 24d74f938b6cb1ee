"""`kind: eval`: one model on held-out problems, what a pipeline measures its models with."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="eval",
    version=2,
    summary="one model on held-out problems",
    recipe="rethink.kinds.eval.recipe:EvalRecipe",
    run="rethink.kinds.eval.run:run_eval",
    plan="rethink.kinds.eval.plan:plan",
    show="rethink.kinds.eval.show:show",
    outputs={"folder": "."},
    samples=True,
    measures=True,
    costs="rethink.kinds.eval.plan:costs",
    said="rethink.kinds.eval.show:said",
)
