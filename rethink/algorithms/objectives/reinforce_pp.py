"""REINFORCE++: PPO's clip without a critic; rewards are normalised over the whole batch, and hold the KL."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="reinforce++",
    summary="clipped ratio of each token; returns, with the KL in the reward, normalised over the rollout batch",
    source="REINFORCE++ (arXiv 2501.03262), equations 8 to 10",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"advantage": "batch", "aggregation": "token", "kl_in": "reward"},
    notes="One completion a prompt is enough (`rollout.group_size=1`). `beta` is 0 unless it is set, as with every "
    "objective here; the paper takes a KL off the reward. The mean over all tokens (`aggregation`) is ours.",
)
