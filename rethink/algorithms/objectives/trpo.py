"""TRPO: a step along the natural gradient, as far as a bound on the KL to the policy before it allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective
from rethink.recipe.terms import Option

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection

_BOUND = "its step is bounded by the KL that it measures (`options.max_kl`)"
_ALL_TOKENS = "its line search measures the policy loss of all tokens, and nothing else"
_ONE_UPDATE = "its bound is on the change from the policy that sampled, so it allows one update a rollout batch"


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-ratio * A of each token."""
    from rethink.algorithms.losses import clip_ratio
    from rethink.algorithms.precision import probability_ratio

    return clip_ratio(probability_ratio(tokens.logprobs_T, tokens.old_logprobs_T), tokens.advantages_T, None, None)


OBJECTIVE = Objective(
    name="trpo",
    summary="one step along the natural gradient, with a bound on the mean KL to the policy before it",
    source="TRPO (arXiv 1502.05477), equation 14 and appendix C",
    equation="-r A, r = p / p_old, subject to mean KL(p_old || p) <= max_kl",
    loss=loss,
    defaults={"advantage": "mean", "aggregation": "token"},
    fixed={
        "clip_low": Fixed(None, _BOUND),
        "clip_high": Fixed(None, _BOUND),
        "dual_clip": Fixed(None, _BOUND),
        "beta": Fixed(0.0, _BOUND),
        "off_policy_mask": Fixed(None, _ALL_TOKENS),
        "entropy_bonus": Fixed(0.0, _ALL_TOKENS),
        "top_entropy": Fixed(1.0, _ALL_TOKENS),
        "covariance": Fixed("none", _ALL_TOKENS),
        "correction": Fixed("none", "its line search measures the loss without one"),
        "aggregation": Fixed("token", "its KL is the mean over all tokens, and so is its loss"),
        "mini_batches": Fixed(1, _ONE_UPDATE),
        "epochs": Fixed(1, _ONE_UPDATE),
    },
    options={
        "max_kl": Option(0.01, "bound on the mean KL of a step, in nats a token", low=1e-8),
        "damping": Option(0.01, "added to the diagonal of the Fisher matrix", low=1e-8),
        "iterations": Option(10, "products of conjugate gradients", low=1, whole=True),
        "backtracks": Option(10, "halvings of the step before it is given up", low=0, whole=True),
    },
    update="trust-region",
    notes="It computes in fp32 (`model.dtype`), and trainer ranks cannot share it. Of `optimizer` it uses the "
    "micro-batch alone: it has no learning rate and no moments. Products with the Fisher matrix are exact, J^T "
    "F_softmax J v: J v by a forward derivative in plain torch, J^T by the usual backward pass. Each costs about two "
    "training passes, so with ten iterations a step costs about twenty more than GRPO's. With "
    "`algorithm.advantage=gae` and a critic, advantages are those of each token.",
)
