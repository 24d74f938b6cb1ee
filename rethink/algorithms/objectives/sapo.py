"""SAPO: a soft gate on the ratio of each token, in place of the clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective
from rethink.recipe.terms import Option

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection

_NO_CLIP = "its gate takes the place of the clip"


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-4 / tau * sigmoid(tau * (ratio - 1)) * A of each token, tau by the sign of A."""
    import torch

    from rethink.algorithms.losses import PolicyLossTerms
    from rethink.algorithms.precision import probability_ratio

    ratio_T = probability_ratio(tokens.logprobs_T, tokens.old_logprobs_T)
    advantages_T = tokens.advantages_T.to(ratio_T.dtype)
    positive, tau = advantages_T > 0, settings.options
    tau_T = torch.full_like(advantages_T, tau["tau_negative"]).masked_fill(positive, tau["tau_positive"])
    gate_T = (tau_T * (ratio_T - 1)).sigmoid() * 4 / tau_T
    none = torch.zeros_like(ratio_T, dtype=torch.bool)
    return PolicyLossTerms(-gate_T * advantages_T, ratio_T.detach(), none, none)


OBJECTIVE = Objective(
    name="sapo",
    summary="a soft gate on the ratio of each token: its gradient fades with the distance from 1 and is never cut",
    source="SAPO (arXiv 2511.20347)",
    equation="-4 / tau sigmoid(tau (r - 1)) A, r = p / p_old, tau by the sign of A",
    loss=loss,
    needs={"old"},
    fixed={
        "clip_low": Fixed(None, _NO_CLIP),
        "clip_high": Fixed(None, _NO_CLIP),
        "dual_clip": Fixed(None, _NO_CLIP),
    },
    options={
        "tau_positive": Option(1.0, "temperature of the gate where the advantage is positive", low=1e-3),
        "tau_negative": Option(1.05, "temperature of the gate where the advantage is not positive", low=1e-3),
    },
    notes="Where every ratio is 1 its gradient is `grpo`'s. It differs where a rollout batch has several updates.",
)
