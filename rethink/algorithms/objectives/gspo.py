"""GSPO: one ratio for each completion, the geometric mean of its tokens' ratios, clipped as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-min(s * A, clip(s) * A), s the ratio of a token's completion."""
    from rethink.algorithms.losses import clip_ratio, sequence_ratio

    ratio_T = sequence_ratio(tokens.logprobs_T, tokens.old_logprobs_T, tokens.lengths)
    return clip_ratio(ratio_T, tokens.advantages_T, settings.clip_low, settings.clip_high, settings.dual_clip)


OBJECTIVE = Objective(
    name="gspo",
    summary="one clipped ratio for each completion: the geometric mean of its tokens' ratios",
    source="GSPO (arXiv 2507.18071), equations 5 and 7; its clip bounds from section 5.1",
    equation="-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(mean of log(p / p_old) over the completion)",
    loss=loss,
    needs={"old", "sequence"},
    defaults={"clip_low": 3e-4, "clip_high": 4e-4},
    fixed={"aggregation": Fixed("sequence", "its ratio is that of a whole completion, and so is its mean")},
    notes="It differs from `grpo` only where a rollout batch has several updates; the paper has four "
    "(`mini_batches=4`), which is not set by the type.",
)
