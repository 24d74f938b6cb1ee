"""VAPO: PPO whose advantages suit long completions."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.algorithms.objectives.ppo import GAE
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="vapo",
    summary="PPO with a lambda that grows with the completion's length, and returns for the critic without discount",
    source="VAPO (arXiv 2504.05118), section 4; VC-PPO (arXiv 2503.01491)",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs={"old", "values"},
    defaults={"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token"},
    fixed={"advantage": GAE},
    critic={"adaptive_lambda": 0.05, "value_lambda": 1.0},
    notes="It needs the section `critic` (below). The paper trains the critic alone for 50 steps first "
    "(`critic.warmup_steps: 50`), which is not set by the type. It adds the log-likelihood of right completions to the "
    "loss, which is not there.",
)
