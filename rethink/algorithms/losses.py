"""Policy losses per token. Each returns the loss to *minimise*; `aggregation.py` says how tokens are averaged.

Axes: T completion tokens of a batch, packed; N rollouts they belong to, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethink.algorithms.kl import kl_penalty
from rethink.algorithms.precision import at_least_fp32, probability_ratio
from rethink.recipe.objective import CORRECTIONS, objective_named

if TYPE_CHECKING:
    from rethink.recipe.schema import AlgorithmSection


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is known of the tokens at hand: a part of a micro-batch, or whole completions where those are needed."""

    logprobs_T: Tensor
    """[T] log-probabilities under the policy, differentiable."""
    old_logprobs_T: Tensor
    """[T] what the ratio is taken to: under the policy that sampled, or, with a correction, under the one before the
    first update of the batch, as the trainer computes them; the current ones, detached, before that update."""
    advantages_T: Tensor
    """[T] advantage of the rollout that each token belongs to."""
    engine_logprobs_T: Tensor | None = None
    """[T] those that the engine sampled with, where they are needed."""
    reference_logprobs_T: Tensor | None = None
    """[T] under the reference model, where there is one."""
    lengths_N: Tensor | None = None
    """[N] tokens of each completion, which sum to T; None where the tokens may be cut anywhere."""
    factor_T: Tensor | None = None
    """[T] what the policy loss is multiplied by, where the mini-batch's tokens decide it (`selection.py`)."""
    penalty_T: Tensor | None = None
    """[T] weight of |log p - log p_old|, as well."""

    @property
    def lengths(self) -> Tensor:
        """`lengths_N`.

        Raises:
            ValueError: completions may be cut.
        """
        if self.lengths_N is None:
            raise ValueError("sums over completions were not asked for: the objective's `needs` must name `sequence`")
        return self.lengths_N


@dataclass(frozen=True, slots=True)
class PolicyLossTerms:
    """A policy loss and what metrics need of it."""

    loss_T: Tensor
    """[T] loss, differentiable in the policy's log-probabilities."""
    ratio_T: Tensor
    """[T] probability ratio of new to old policy; detached."""
    clipped_low_T: Tensor
    """[T] bool: the lower bound holds the ratio."""
    clipped_high_T: Tensor
    """[T] bool: an upper bound holds the ratio."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The whole loss of each token with its parts."""

    loss_T: Tensor
    """[T] corrected policy loss of the tokens that are not masked + beta * KL."""
    policy: PolicyLossTerms
    """The policy loss before its correction."""
    kl_T: Tensor | None
    """[T] estimate of the KL, detached; None where there is no reference."""
    weights_T: Tensor | None
    """[T] correction's weights; None without a correction."""
    cut_T: Tensor | None
    """[T] bool: the weight was held at its cap, or dropped; None without a correction."""
    masked_T: Tensor | None = None
    """[T] bool: `off_policy_mask` dropped the token; None without a mask."""


def token_loss(tokens: Tokens, settings: AlgorithmSection) -> LossTerms:
    """mask * correction * policy loss + beta * KL of each token, as a recipe's section `algorithm` says.

    Correction and mask weigh the policy loss outside its clip, and not the KL.

    Args:
        tokens: what the settings' `needs` name is there.
        settings: objective, bounds, correction and KL.

    Raises:
        ValueError: beta is not 0 and there is no reference, or the correction has no log-probabilities of the engine.
    """
    policy = objective_named(settings.type).loss(tokens, settings)
    loss_T, weights_T, cut_T, masked_T = policy.loss_T, None, None, None
    if settings.correction != "none":
        weights_T, cut_T = correction_weights(tokens, settings)
        loss_T = weights_T * loss_T
    if settings.off_policy_mask is not None:
        masked_T = far_and_negative(tokens, settings.off_policy_mask)
        loss_T = torch.where(masked_T, 0.0, loss_T)
    if tokens.factor_T is not None:
        loss_T = tokens.factor_T * loss_T
    if tokens.penalty_T is not None:
        apart_T = at_least_fp32(tokens.logprobs_T) - at_least_fp32(tokens.old_logprobs_T)
        loss_T = loss_T + tokens.penalty_T * apart_T.abs()
    reference_T = tokens.reference_logprobs_T
    if reference_T is None:
        if settings.kl_coefficient != 0:
            raise ValueError(f"beta is {settings.beta} but there are no reference log-probabilities")
        return LossTerms(loss_T, policy, None, weights_T, cut_T, masked_T)
    kl_T = kl_penalty(settings.kl, tokens.logprobs_T, reference_T, tokens.old_logprobs_T)
    if settings.kl_coefficient != 0:
        loss_T = loss_T + settings.kl_coefficient * kl_T
    return LossTerms(loss_T, policy, kl_T.detach(), weights_T, cut_T, masked_T)


def clip_ratio(
    ratio_T: Tensor,
    advantages_T: Tensor,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None = None,
) -> PolicyLossTerms:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) of given ratios; a bound of None is not there.

    DeepSeekMath (arXiv 2402.03300) equation 3, DeepSeek-R1 (2501.12948) equation 1 with the ratio taken per token, PPO
    (1707.06347) equation 7. A clip_low of 1 or more never clips below, since a ratio is positive.

    Written out by the sign of A, which is the same and leaves no ties to autograd: where A is positive only the upper
    bound can be the smaller one, where A is negative only the lower. With `dual_clip` c > 1 the ratio of a token with
    negative advantage is also bounded above by c (arXiv 1912.09729, equation 5): -A * min(ratio, c).
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip}; it must be above 1, or None")
    low, high = bounds(clip_low, clip_high)
    advantages_T = advantages_T.to(ratio_T.dtype)
    positive, negative = advantages_T > 0, advantages_T < 0
    bounded = torch.where(positive, ratio_T.clamp(max=high), ratio_T.clamp(min=low, max=dual_clip))
    ratio = ratio_T.detach()
    clipped_high = positive & (ratio > high)
    if dual_clip is not None:
        clipped_high = clipped_high | (negative & (ratio > dual_clip))
    return PolicyLossTerms(-advantages_T * bounded, ratio, negative & (ratio < low), clipped_high)


def sequence_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, completion_lengths_N: Tensor) -> Tensor:
    """[T] the ratio of GSPO: exp of the mean log-ratio of a token's completion, the same for all its tokens.

    GSPO (arXiv 2507.18071) equation 7; use it with `clip_ratio`. Differentiable in both log-probabilities.

    Args:
        logprobs_T: [T] log-probabilities under the policy, packed, completion after completion.
        old_logprobs_T: [T] log-probabilities under the policy that sampled.
        completion_lengths_N: [N] tokens of each completion, at least 1; they sum to T.
    """
    lengths_N = completion_lengths_N.clamp(min=1)  # a completion without tokens has no ratio, and no 0 / 0
    mean_N = _completion_sums(logprobs_T, old_logprobs_T, completion_lengths_N) / lengths_N
    return probability_ratio(mean_N, torch.zeros_like(mean_N)).repeat_interleave(completion_lengths_N)


def cispo_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    clip_low: float | None,
    clip_high: float | None,
) -> PolicyLossTerms:
    """-sg(clip(ratio)) * A * log p: the clipped ratio weighs the policy gradient and no token loses it.

    CISPO (MiniMax-M1, arXiv 2506.13585) equations 4 and 5. With old = new log-probabilities it is REINFORCE.
    """
    ratio_T = probability_ratio(logprobs_T.detach(), old_logprobs_T)
    low, high = bounds(clip_low, clip_high)
    loss_T = -ratio_T.clamp(low, high) * advantages_T * at_least_fp32(logprobs_T)
    return PolicyLossTerms(loss_T, ratio_T, ratio_T < low, ratio_T > high)


def reinforce_loss(logprobs_T: Tensor, advantages_T: Tensor) -> PolicyLossTerms:
    """-A * log p (Williams 1992): exact for tokens that the policy itself sampled, whose ratio is 1."""
    logprobs = at_least_fp32(logprobs_T)
    none = torch.zeros_like(logprobs, dtype=torch.bool)
    return PolicyLossTerms(-advantages_T * logprobs, torch.ones_like(logprobs), none, none)


def correction_weights(tokens: Tokens, settings: AlgorithmSection) -> tuple[Tensor, Tensor]:
    """([T] weights of the settings' correction, [T] bool: held at the cap or dropped); `recipe.objective.CORRECTIONS`.

    The ratio is that of the policy before the first update of the batch, by the trainer, to the policy that sampled, by
    the engine: what the current policy has learnt since is the objective's own ratio.
    """
    correction, engine_T = CORRECTIONS[settings.correction], tokens.engine_logprobs_T
    if engine_T is None:
        raise ValueError(f"correction {settings.correction!r} needs the engine's log-probabilities")
    most = None if correction.drops else settings.correction_cap
    if correction.sequence:
        weights_T, cut_T = sequence_importance_weights(tokens.old_logprobs_T, engine_T, tokens.lengths, most)
    else:
        weights_T, cut_T = importance_weights(tokens.old_logprobs_T, engine_T, most)
    if correction.drops and settings.correction_cap is not None and settings.correction_floor is not None:
        cut_T = (weights_T < settings.correction_floor) | (weights_T > settings.correction_cap)
        weights_T = torch.where(cut_T, 0.0, weights_T)
    return weights_T, cut_T


def far_and_negative(tokens: Tokens, most: float) -> Tensor:
    """[T] bool: the advantage is negative, and the completion is far from the policy that sampled.

    DeepSeek-V3.2 (arXiv 2512.02556) section 3.1, off-policy sequence masking: the mean over a completion's tokens of
    log p_engine - log p, with the engine's own log-probabilities, is above `most` (nats a token).

    Raises:
        ValueError: there are no log-probabilities of the engine.
    """
    if tokens.engine_logprobs_T is None:
        raise ValueError("off_policy_mask needs the engine's log-probabilities")
    lengths_N = tokens.lengths.clamp(min=1)
    sums_N = _completion_sums(tokens.engine_logprobs_T, tokens.logprobs_T.detach(), tokens.lengths)
    far_T = (sums_N / lengths_N > most).repeat_interleave(tokens.lengths)
    return far_T & (tokens.advantages_T < 0)


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


def bounds(clip_low: float | None, clip_high: float | None) -> tuple[float, float]:
    """Least and largest ratio that clip bounds allow."""
    low = 0.0 if clip_low is None else max(0.0, 1.0 - clip_low)
    return low, torch.inf if clip_high is None else 1.0 + clip_high


def _truncate(ratio: Tensor, maximum: float | None) -> tuple[Tensor, Tensor]:
    if maximum is None:
        return ratio, torch.zeros_like(ratio, dtype=torch.bool)
    return ratio.clamp(max=maximum), ratio > maximum
