"""Which tokens of a mini-batch the policy loss trains, where all of them decide it together: by the rank of a token's
entropy, or by its covariance of log-probability and advantage.

Axes: T trained tokens of a mini-batch, of all its completions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rethink.recipe.schema import AlgorithmSection


@dataclass(frozen=True, slots=True)
class Choice:
    """What the tokens of a mini-batch decide."""

    factor_T: Tensor
    """[T] 1 where the policy loss trains the token, else 0."""
    penalty_T: Tensor
    """[T] weight of the distance from the policy that sampled, |log p - log p_old|."""


def choose(
    settings: AlgorithmSection, logprobs_T: Tensor, entropies_T: Tensor, advantages_T: Tensor, seed: int
) -> Choice:
    """The choice of a recipe's `top_entropy` and `covariance`, in fp64 on the processor.

    Args:
        settings: of the recipe.
        logprobs_T: [T] under the present policy.
        entropies_T: [T] of the distributions that the tokens were sampled from (nats).
        advantages_T: [T].
        seed: of the tokens that Clip-Cov draws.
    """
    options, number = settings.options, len(logprobs_T)
    factor_T, penalty_T = torch.ones(number, dtype=torch.float64), torch.zeros(number, dtype=torch.float64)
    if settings.top_entropy < 1:
        factor_T[~highest(entropies_T, settings.top_entropy)] = 0.0
    if settings.covariance == "none" or not number:
        return Choice(factor_T, penalty_T)
    covariance_T, count = covariance(logprobs_T, advantages_T), max(int(options["cov_share"] * number), 1)
    if settings.covariance == "clip":
        factor_T[drawn(covariance_T, options["cov_low"], options["cov_high"], count, seed)] = 0.0
    else:
        penalty_T[covariance_T.topk(count).indices] = options["cov_weight"]
    return Choice(factor_T, penalty_T)


def highest(entropies_T: Tensor, share: float) -> Tensor:
    """[T] bool: the token is among the share of the highest entropy, or has the entropy of the last one that is.

    Wang et al. (arXiv 2506.01939, "Beyond the 80/20 Rule"), whose share is 0.2.
    """
    if not len(entropies_T):
        return torch.zeros(0, dtype=torch.bool)
    count = min(max(math.ceil(share * len(entropies_T)), 1), len(entropies_T))
    least = entropies_T.sort(descending=True).values[count - 1]
    return entropies_T >= least


def covariance(logprobs_T: Tensor, advantages_T: Tensor) -> Tensor:
    """[T] (log p - mean) * (A - mean), a token's part of the covariance that drives the entropy down.

    Cui et al. (arXiv 2505.22617, "The Entropy Mechanism of RL for Reasoning Language Models").
    """
    logprobs, advantages = logprobs_T.double(), advantages_T.double()
    return (logprobs - logprobs.mean()) * (advantages - advantages.mean())


def drawn(covariance_T: Tensor, low: float, high: float, count: int, seed: int) -> Tensor:
    """Places of at most `count` tokens between the bounds, drawn at random: Clip-Cov of Cui et al."""
    between = ((covariance_T > low) & (covariance_T < high)).nonzero()[:, 0]
    order = torch.randperm(len(between), generator=torch.Generator().manual_seed(seed))
    return between[order[:count]]
