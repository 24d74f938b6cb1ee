"""Pass@k Training: GRPO of the best reward among k completions, over all sets of k at once."""

from __future__ import annotations

from rethink.algorithms.objectives import grpo
from rethink.recipe.objective import Objective

OBJECTIVE = Objective(
    name="pass-at-k",
    summary="GRPO of the best of k completions: rewards what makes a set of k succeed",
    source="Pass@k Training (arXiv 2508.10751), its analytical form",
    equation=grpo.OBJECTIVE.equation,
    loss=grpo.loss,
    needs=grpo.OBJECTIVE.needs,
    defaults={"advantage": "pass-at-k"},
    notes="The paper is about rewards of 0 and 1; with others the best reward of a set counts, which is ours. "
    "`algorithm.advantage=max-at-k` is PKPO's instead (arXiv 2505.15201): its expected gradient is that of the "
    "expected best reward of k.",
)
