"""GDPO: each reward function is normalised within the group by itself, and their weighed sum over the batch."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="gdpo",
    summary="GRPO whose reward functions are normalised one by one, and then their sum over the rollout batch",
    source="GDPO (arXiv 2601.05242)",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"advantage": "gdpo"},
    notes="It differs from `grpo` where there are several reward functions. The weights of `reward.parts` weigh the "
    "normalised advantages. A score that a function did not give takes no part.",
)
