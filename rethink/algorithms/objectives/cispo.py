"""CISPO: the policy gradient of every token, weighed by its ratio, which is clipped and has no gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-sg(clip(ratio)) * A * log p of each token."""
    from rethink.algorithms.losses import cispo_loss

    return cispo_loss(
        tokens.logprobs_T, tokens.old_logprobs_T, tokens.advantages_T, settings.clip_low, settings.clip_high
    )


OBJECTIVE = Objective(
    name="cispo",
    summary="policy gradient of every token, weighed by its clipped ratio: clipping takes no token's gradient",
    source="CISPO (MiniMax-M1, arXiv 2506.13585), equations 4 and 5",
    equation="-sg(clip(r, 1 - clip_low, 1 + clip_high)) A log p, r = p / p_old",
    loss=loss,
    needs={"old"},
    defaults={"clip_low": None, "clip_high": 4.0, "aggregation": "token"},
    fixed={"dual_clip": Fixed(None, "`clip_high` bounds its ratio whatever the sign of the advantage")},
    notes="The paper sets no lower bound and does not print its upper one; a largest weight of 5 (`clip_high` 4) is "
    "ScaleRL's (arXiv 2510.13786).",
)
