"""REINFORCE++ with baseline: rewards less the group's mean, normalised over the whole batch; the KL is in the loss."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo, reinforce_pp
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="reinforce++-baseline",
    summary="REINFORCE++ of rewards less their group's mean, with the KL (k2) in the loss",
    source="REINFORCE++ with baseline (arXiv 2501.03262)",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={**reinforce_pp.OBJECTIVE.defaults, "advantage": "mean-batch", "kl": "k2", "kl_in": "loss"},
    notes="`beta` is 0 unless it is set, as with every objective here. The mean over all tokens (`aggregation`) is "
    "ours.",
)
