"""GRPO: the clipped ratio of each token, weighed by the advantage of its completion within its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Objective

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-min(ratio * A, clip(ratio) * A) of each token."""
    from rethink.algorithms.losses import clip_ratio
    from rethink.algorithms.precision import probability_ratio

    ratio_T = probability_ratio(tokens.logprobs_T, tokens.old_logprobs_T)
    return clip_ratio(ratio_T, tokens.advantages_T, settings.clip_low, settings.clip_high, settings.dual_clip)


OBJECTIVE = Objective(
    name="grpo",
    summary="clipped ratio of each token, advantage normalised by the group's standard deviation",
    source="DeepSeekMath (arXiv 2402.03300), equation 3; DeepSeek-R1 (arXiv 2501.12948), equation 1",
    equation="-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = p / p_old",
    loss=loss,
    needs={"old"},
    notes="The papers add a KL to a reference model; `beta` is 0 by default, which keeps none. DeepSeekMath uses 0.04, "
    "DeepSeek-R1 0.001 with `clip_low` and `clip_high` 10.",
)
