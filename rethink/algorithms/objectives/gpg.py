"""GPG: the plain policy gradient of group advantages, scaled up for the groups without signal."""

from __future__ import annotations

from rethink.algorithms.objectives import rloo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="gpg",
    summary="REINFORCE with the group's mean as the baseline, scaled by all groups over those with signal",
    source="GPG (arXiv 2504.02546)",
    equation=rloo.OBJECTIVE.equation,
    loss=rloo.loss,
    defaults={"advantage": "gpg", "aggregation": "token"},
    fixed=rloo.OBJECTIVE.fixed,
    notes="The paper writes the advantage with a normaliser; here it is 1, its form without the standard deviation. "
    "The paper uses no KL.",
)
