"""MaxRL: advantages over the group's mean reward, which approach maximum likelihood as groups grow."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="maxrl",
    summary="rewards less the group's mean, over that mean: the gradient of the log of the success rate, cut at the "
    "group size",
    source="MaxRL (arXiv 2602.02710)",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"advantage": "max-rl", "aggregation": "fixed", "fixed_denominator": 1.0},
    notes="The paper is about rewards of 0 and 1; rewards must not be negative. With group size G and rewards of 0 "
    "and 1 the expected gradient is that of the sum of pass@k / k up to k = G - 1. A completion's loss is the sum over "
    "its tokens (`fixed_denominator` 1), for which this holds. Clip bounds are GRPO's, ours here.",
)
