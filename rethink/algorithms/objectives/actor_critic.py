"""Actor-critic: the policy gradient of each token, weighed by its advantage against a critic."""

from __future__ import annotations

from rethink.algorithms.objectives import rloo
from rethink.algorithms.objectives.ppo import GAE
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="actor-critic",
    summary="policy gradient of each token, its advantage against a critic's values; no ratio and no clip",
    source="A3C (arXiv 1602.01783), section 4; GAE (arXiv 1506.02438), equation 16",
    equation=rloo.OBJECTIVE.equation,
    loss=rloo.loss,
    needs={"values"},
    defaults={"aggregation": "token", "kl": "k2"},
    fixed={**rloo.OBJECTIVE.fixed, "advantage": GAE},
    notes="It needs the section `critic` (below), and works with `rollout.group_size: 1`. A3C's bonus for entropy is "
    "`algorithm.entropy_bonus`.",
)
