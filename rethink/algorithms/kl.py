"""Estimators of KL(policy || reference) from the log-probabilities of sampled tokens (Schulman 2020, "Approximating
KL Divergence"). With d = log p_reference - log p_policy of a token that the policy sampled:

    k1 = -d               unbiased, may be negative
    k2 = d**2 / 2         biased, low variance
    k3 = exp(d) - d - 1   unbiased, never negative; the GRPO penalty

Axes: T completion tokens. All functions are differentiable in the policy's log-probabilities.
"""

from __future__ import annotations

from torch import Tensor

from rethink.algorithms.precision import MAX_LOG_RATIO, at_least_fp32


def kl_k1(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] log p_policy - log p_reference, nats."""
    return at_least_fp32(logprobs_T) - at_least_fp32(reference_logprobs_T)


def kl_k2(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """[T] half the squared difference of the log-probabilities, nats."""
    return kl_k1(logprobs_T, reference_logprobs_T).square() / 2


def kl_k3(logprobs_T: Tensor, reference_logprobs_T: Tensor, max_log_ratio: float = MAX_LOG_RATIO) -> Tensor:
    """[T] exp(d) - d - 1, nats: DeepSeek-R1 (arXiv 2501.12948) equation 2, DeepSeekMath (2402.03300) equation 4.

    d is limited above by `max_log_ratio`, where exp(d) would drown or overflow all else; the gradient of such a token
    is 0. There is no limit below: exp(d) vanishes there and the rest is linear. `expm1` keeps the small values, which
    are most of them, exact in fp32.
    """
    log_ratio = (-kl_k1(logprobs_T, reference_logprobs_T)).clamp(max=max_log_ratio)
    return log_ratio.expm1() - log_ratio
