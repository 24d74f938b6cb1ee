"""REINFORCE: the log-probability of every token, weighed by the reward less a baseline that the recipe chooses."""

from __future__ import annotations

from rethink.algorithms.objectives import rloo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="reinforce",
    summary="REINFORCE, with the baseline that `advantage` says: none, a moving average, a greedy completion, "
    "the group's mean, the mean of its others",
    source="Williams 1992, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    equation=rloo.OBJECTIVE.equation,
    loss=rloo.loss,
    defaults={"advantage": "none", "aggregation": "fixed", "fixed_denominator": 1.0, "kl": "k2"},
    fixed=rloo.OBJECTIVE.fixed,
    notes="A completion's loss is the sum over its tokens (`fixed_denominator` 1), which makes the gradient that of "
    "the expected reward. `advantage` is the baseline: `none`, `moving-average`, `greedy` (ReMax), `mean`, "
    "`leave-one-out`, or any other. With the first three one completion a prompt is enough (`rollout.group_size=1`).",
)
