"""An objective outside the package: REINFORCE whose advantages are scaled by an option of its own."""

from rethink.recipe.objective import Objective, Option


def loss(tokens, settings):
    from rethink.algorithms.losses import reinforce_loss

    return reinforce_loss(tokens.logprobs_T, settings.options["scale"] * tokens.advantages_T)


OBJECTIVE = Objective(
    name="toy",
    summary="a toy",
    source="tests/algorithms",
    equation="-scale A log p",
    loss=loss,
    defaults={"aggregation": "token"},
    options={"scale": Option(1.0, "factor of the advantages")},
)
