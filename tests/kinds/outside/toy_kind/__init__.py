"""A kind of run in one folder outside the package: it copies a model in steps, and calls that training."""

from rethink.recipe.kind import Kind

KIND = Kind(
    name="toy",
    version=1,
    summary="copies a model, step by step",
    recipe="toy_kind.recipe:ToyRecipe",
    run="toy_kind.run:run",
    plan="toy_kind.show:plan",
    show="toy_kind.show:show",
    outputs={"model": "model", "folder": "."},
    trains=True,
    evaluated=True,
    costs="toy_kind.show:costs",
    keeps="toy_kind.show:keeps",
    said="toy_kind.show:said",
    checked="toy_kind.show:checked",
    charts="toy_kind.show:CHARTS",
    card="copying, step by step",
)
