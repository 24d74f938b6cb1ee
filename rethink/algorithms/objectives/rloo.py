"""RLOO: REINFORCE, with the mean reward of the group's other completions as the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.objective import Fixed, Objective

if TYPE_CHECKING:
    from rethink.algorithms.losses import PolicyLossTerms, Tokens
    from rethink.recipe.schema import AlgorithmSection

_NO_RATIO = "its loss has no ratio that could be clipped"
_ONE_UPDATE = "its loss has no ratio to the policy that sampled, so it allows one update a rollout batch"


def loss(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms:
    """-A * log p of each token."""
    from rethink.algorithms.losses import reinforce_loss

    return reinforce_loss(tokens.logprobs_T, tokens.advantages_T)


OBJECTIVE = Objective(
    name="rloo",
    summary="REINFORCE with the mean reward of the group's other completions as the baseline",
    source="RLOO (arXiv 2402.14740), equation 6; Kool et al. 2019, Buy 4 REINFORCE Samples, Get a Baseline for Free",
    equation="-A log p",
    loss=loss,
    defaults={"advantage": "leave-one-out", "aggregation": "fixed", "fixed_denominator": 1.0, "kl": "k2"},
    fixed={
        "clip_low": Fixed(None, _NO_RATIO),
        "clip_high": Fixed(None, _NO_RATIO),
        "dual_clip": Fixed(None, _NO_RATIO),
        "mini_batches": Fixed(1, _ONE_UPDATE),
        "epochs": Fixed(1, _ONE_UPDATE),
    },
    notes="A completion's loss is the sum over its tokens (`fixed_denominator` 1), since the paper takes it for one "
    "action; with `aggregation=sequence` or `token` it is a mean. The paper puts the KL into the reward; here `beta` "
    "puts it into the loss, where k2 has the gradient of KL(policy || reference) token by token.",
)
