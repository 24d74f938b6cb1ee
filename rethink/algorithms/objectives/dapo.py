"""DAPO, its loss: a higher upper clip, and a mean over all tokens of the mini-batch."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="dapo",
    summary="GRPO with a higher upper clip, a mean over all tokens and no KL: the loss of DAPO",
    source="DAPO (arXiv 2503.14476), equation 8",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token"},
    notes="The type sets the loss alone. The paper's other parts are off until a recipe sets them: dynamic sampling "
    "(`rollout.dynamic_sampling`), the penalty on overlong completions (the reward `overlong`), and their filtering "
    "(`algorithm.mask_truncated`). docs/sampling.md shows a recipe with all parts.",
)
