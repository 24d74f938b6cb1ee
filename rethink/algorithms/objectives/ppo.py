"""PPO: the clipped ratio of each token, weighed by the token's own advantage against a critic."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Fixed, Objective

GAE = Fixed("gae", "its advantages are those of each token against a critic's values")

OBJECTIVE = Objective(
    name="ppo",
    summary="clipped ratio of each token, its advantage against a critic's values",
    source="PPO (arXiv 1707.06347), equation 7; GAE (arXiv 1506.02438), equation 16",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs={"old", "values"},
    defaults={"aggregation": "token"},
    fixed={"advantage": GAE},
    notes="It needs the section `critic` (below), and works with `rollout.group_size: 1`. `beta` puts the KL into the "
    "loss, or into the reward of each token (`algorithm.kl_in=reward`). The entropy bonus of the paper's equation 9 is "
    "`algorithm.entropy_bonus`.",
)
