"""Policy losses per token. Each returns the loss to *minimise*; `aggregation.py` says how tokens are averaged.

Axes: T completion tokens of a batch, packed; N rollouts they belong to, in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.algorithms.kl import kl_k3
from rethink.algorithms.precision import at_least_fp32, probability_ratio


@dataclass(frozen=True, slots=True)
class PolicyLossTerms:
    """A clipped policy loss and what metrics need of it."""

    loss_T: Tensor
    """[T] loss, differentiable in the policy's log-probabilities."""
    ratio_T: Tensor
    """[T] probability ratio of new to old policy; detached."""
    clipped_low_T: Tensor
    """[T] bool: the lower bound holds the ratio, so this token has no gradient."""
    clipped_high_T: Tensor
    """[T] bool: an upper bound holds the ratio, so this token has no gradient."""


@dataclass(frozen=True, slots=True)
class GRPOTerms:
    """GRPO's loss of each token with its two parts."""

    loss_T: Tensor
    """[T] policy loss + beta * KL."""
    policy: PolicyLossTerms
    """The clipped policy loss."""
    kl_T: Tensor | None
    """[T] k3 estimate, detached; None where there is no reference."""


def clipped_policy_loss(
    logprobs_T: Tensor, old_logprobs_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float
) -> PolicyLossTerms:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) per token, ratio = p_policy / p_old.

    DeepSeekMath (arXiv 2402.03300) equation 3, DeepSeek-R1 (2501.12948) equation 1 with the ratio taken per token, PPO
    (1707.06347) equation 7. The log of the ratio is limited above as `precision.MAX_LOG_RATIO` says.

    Args:
        logprobs_T: [T] log-probabilities under the policy, differentiable.
        old_logprobs_T: [T] log-probabilities under the policy that sampled.
        advantages_T: [T] advantage of the rollout that each token belongs to.
        clip_low: the ratio is bounded at 1 - clip_low from below; 1 or more never clips below (a ratio is positive).
        clip_high: the ratio is bounded at 1 + clip_high from above.
    """
    return clip_ratio(probability_ratio(logprobs_T, old_logprobs_T), advantages_T, clip_low, clip_high)


def clip_ratio(
    ratio_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> PolicyLossTerms:
    """The clipped loss of given ratios: -min(ratio * A, clip(ratio) * A).

    Written out by the sign of A, which is the same and leaves no ties to autograd: where A is positive only the upper
    bound can be the smaller one, where A is negative only the lower. With `dual_clip` c > 1 the ratio of a token with
    negative advantage is also bounded above by c (arXiv 1912.09729, equation 5): -A * min(ratio, c).
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1, or None")
    low, high = max(0.0, 1.0 - clip_low), 1.0 + clip_high
    advantages_T = advantages_T.to(ratio_T.dtype)
    positive, negative = advantages_T > 0, advantages_T < 0
    bounded = torch.where(positive, ratio_T.clamp(max=high), ratio_T.clamp(min=low, max=dual_clip))
    ratio = ratio_T.detach()
    clipped_high = positive & (ratio > high)
    if dual_clip is not None:
        clipped_high = clipped_high | (negative & (ratio > dual_clip))
    return PolicyLossTerms(-advantages_T * bounded, ratio, negative & (ratio < low), clipped_high)


def grpo_token_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    clip_low: float,
    clip_high: float,
    beta: float = 0.0,
    reference_logprobs_T: Tensor | None = None,
) -> GRPOTerms:
    """Clipped policy loss + beta * k3 per token: DeepSeekMath (arXiv 2402.03300) equation 3.

    Args:
        logprobs_T: [T] log-probabilities under the policy, differentiable.
        old_logprobs_T: [T] log-probabilities under the policy that sampled.
        advantages_T: [T] advantage of the rollout that each token belongs to.
        clip_low: as `clipped_policy_loss`.
        clip_high: as `clipped_policy_loss`.
        beta: weight of the KL; 0 leaves it out of the loss (it is still measured where a reference is given).
        reference_logprobs_T: [T] log-probabilities under the reference model; needed unless beta is 0.

    Raises:
        ValueError: beta is not 0 and there is no reference.
    """
    policy = clipped_policy_loss(logprobs_T, old_logprobs_T, advantages_T, clip_low, clip_high)
    if reference_logprobs_T is None:
        if beta != 0:
            raise ValueError(f"beta is {beta} but there are no reference log-probabilities")
        return GRPOTerms(policy.loss_T, policy, None)
    if beta == 0:
        return GRPOTerms(policy.loss_T, policy, kl_k3(logprobs_T.detach(), reference_logprobs_T))
    kl_T = kl_k3(logprobs_T, reference_logprobs_T)
    return GRPOTerms(policy.loss_T + beta * kl_T, policy, kl_T.detach())


def sequence_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, completion_lengths_N: Tensor) -> Tensor:
    """[T] the ratio of GSPO: exp of the mean log-ratio of a token's completion, the same for all its tokens.

    GSPO (arXiv 2507.18071) equation 7; use it with `clip_ratio`. Differentiable in both log-probabilities.

    Args:
        logprobs_T: [T] log-probabilities under the policy, packed, completion after completion.
        old_logprobs_T: [T] log-probabilities under the policy that sampled.
        completion_lengths_N: [N] tokens of each completion, at least 1; they sum to T.
    """
    mean_N = _completion_sums(logprobs_T, old_logprobs_T, completion_lengths_N) / completion_lengths_N
    return probability_ratio(mean_N, torch.zeros_like(mean_N)).repeat_interleave(completion_lengths_N)


def cispo_loss(
    logprobs_T: Tensor, old_logprobs_T: Tensor, advantages_T: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """[T] -sg(clip(ratio)) * A * log p: the clipped ratio weighs the policy gradient and no token loses it.

    CISPO (MiniMax-M1, arXiv 2506.13585) equations 4 and 5. With old = new log-probabilities it is REINFORCE.
    """
    ratio_T = probability_ratio(logprobs_T.detach(), old_logprobs_T)
    weights = ratio_T.clamp(max(0.0, 1.0 - clip_low), 1.0 + clip_high)
    return -weights * advantages_T * at_least_fp32(logprobs_T)


def importance_weights(
    logprobs_T: Tensor, engine_logprobs_T: Tensor, maximum: float | None = None
) -> tuple[Tensor, Tensor]:
    """Weights p_trainer / p_engine that make up for an engine whose numbers differ, and which were cut.

    Truncated importance sampling (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training"): min(ratio, maximum). Multiply a token's loss by its weight; nothing is differentiable here.

    Returns:
        ([T] weights, [T] bool: the weight was above `maximum`).
    """
    ratio_T = probability_ratio(logprobs_T.detach(), engine_logprobs_T.detach())
    return _truncate(ratio_T, maximum)


def sequence_importance_weights(
    logprobs_T: Tensor, engine_logprobs_T: Tensor, completion_lengths_N: Tensor, maximum: float | None = None
) -> tuple[Tensor, Tensor]:
    """As `importance_weights`, with the ratio of whole completions (the product over its tokens) at each token."""
    sums_N = _completion_sums(logprobs_T.detach(), engine_logprobs_T.detach(), completion_lengths_N)
    ratio_N = probability_ratio(sums_N, torch.zeros_like(sums_N))
    return _truncate(ratio_N.repeat_interleave(completion_lengths_N), maximum)


def _completion_sums(logprobs_T: Tensor, other_T: Tensor, completion_lengths_N: Tensor) -> Tensor:
    """[N] sum of the log-ratios of each completion's tokens."""
    log_ratio_T = at_least_fp32(logprobs_T) - at_least_fp32(other_T)
    if int(completion_lengths_N.sum()) != len(log_ratio_T):
        raise ValueError(f"lengths sum to {int(completion_lengths_N.sum())}, but there are {len(log_ratio_T)} tokens")
    owner_T = torch.arange(len(completion_lengths_N), device=log_ratio_T.device).repeat_interleave(completion_lengths_N)
    return log_ratio_T.new_zeros(len(completion_lengths_N)).index_add(0, owner_T, log_ratio_T)


def _truncate(ratio: Tensor, maximum: float | None) -> tuple[Tensor, Tensor]:
    if maximum is None:
        return ratio, torch.zeros_like(ratio, dtype=torch.bool)
    return ratio.clamp(max=maximum), ratio > maximum
