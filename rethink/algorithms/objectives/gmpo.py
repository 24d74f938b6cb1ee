"""GMPO: the geometric mean of a completion's ratios, each clipped alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-A * exp(mean over the completion of log ratio, each clipped on the side that A says)."""
    import torch

    from rethink.algorithms.losses import PolicyLossTerms, bounds, sequence_ratio
    from rethink.algorithms.precision import at_least_fp32

    limits = torch.tensor(bounds(settings.clip_low, settings.clip_high), dtype=torch.float64)
    low, high = limits.log().tolist()
    log_ratio_T = at_least_fp32(tokens.logprobs_T) - at_least_fp32(tokens.old_logprobs_T)
    advantages_T = tokens.advantages_T.to(log_ratio_T.dtype)
    positive, negative = advantages_T > 0, advantages_T < 0
    bounded_T = torch.where(
        positive, log_ratio_T.clamp(max=high), torch.where(negative, log_ratio_T.clamp(min=low), 0.0)
    )
    ratio_T = sequence_ratio(bounded_T, torch.zeros_like(bounded_T), tokens.lengths)
    plain = log_ratio_T.detach()
    return PolicyLossTerms(
        -advantages_T * ratio_T, ratio_T.detach(), negative & (plain < low), positive & (plain > high)
    )


OBJECTIVE = Objective(
    name="gmpo",
    summary="the geometric mean of a completion's ratios, each clipped before the mean, with wide bounds",
    source="GMPO (arXiv 2507.20673)",
    equation="-A exp(mean over the completion of log r, each r clipped above where A > 0 and below where A < 0), "
    "r = p / p_old",
    loss=loss,
    needs={"old", "sequence"},
    defaults={"clip_low": 0.3296799539643607, "clip_high": 0.49182469764127035},
    fixed={
        "aggregation": Fixed("sequence", "its ratio is that of a whole completion, and so is its mean"),
        "dual_clip": Fixed(None, "its ratio is a geometric mean, which no single token makes large"),
    },
    notes="The bounds are the paper's (e^-0.4, e^0.4), written as distances from 1.",
)
