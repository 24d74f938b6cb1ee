"""Dr. GRPO: GRPO without its two biases, the division by the standard deviation and by a completion's own length."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="dr-grpo",
    summary="GRPO without division by the standard deviation and by the completion's length",
    source="Dr. GRPO (arXiv 2503.20783), section 3.2",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"advantage": "mean", "aggregation": "fixed"},
    notes="`fixed_denominator` is the constant that replaces the length; null means `rollout.max_new_tokens`. The "
    "paper uses no KL.",
)
