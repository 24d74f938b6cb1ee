"""Estimators of KL(policy || reference) from the log-probabilities of sampled tokens (Schulman 2020, "Approximating
KL Divergence"). With d = log p_reference - log p_policy of a token that the policy sampled:

    k1 = -d               unbiased, may be negative
    k2 = d**2 / 2         biased, low variance
    k3 = exp(d) - d - 1   unbiased, never negative; the GRPO penalty

A good estimate of a value need not have a good gradient: `recipe/objective.py` (KL_ESTIMATORS) says what each one's is.

Axes: T completion tokens. All functions are differentiable in the policy's log-probabilities.
"""

from __future__ import annotations

from torch import Tensor

from rethink.algorithms.precision import MAX_LOG_RATIO, at_least_fp32, probability_ratio


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


def kl_unbiased_k3(logprobs_T: Tensor, reference_logprobs_T: Tensor, old_logprobs_T: Tensor) -> Tensor:
    """[T] p / p_old * k3, nats: DeepSeek-V3.2 (arXiv 2512.02556) section 3.1, the unbiased KL estimate.

    The ratio to the policy that sampled has its gradient too: with it, the mean over that policy's tokens is the KL of
    the present one, and the mean of the gradient is that of KL(policy || reference).
    """
    return probability_ratio(logprobs_T, old_logprobs_T) * kl_k3(logprobs_T, reference_logprobs_T)


def kl_penalty(
    kind: str, logprobs_T: Tensor, reference_logprobs_T: Tensor, old_logprobs_T: Tensor | None = None
) -> Tensor:
    """[T] the penalty of a loss: the value of an estimator, and a gradient that lowers a KL.

    With grad = d log p_policy: k1 and k2 have (log p_policy - log p_reference) * grad, whose mean over the policy's own
    tokens is the gradient of KL(policy || reference); k3 has (1 - p_reference / p_policy) * grad, whose mean is that of
    KL(reference || policy). k1's own derivative, grad, has the mean 0, so its value gets k2's gradient.

    Args:
        kind: `k1`, `k2`, `k3` or `unbiased-k3`.
        logprobs_T: [T] log-probabilities under the policy, differentiable.
        reference_logprobs_T: [T] log-probabilities under the reference model.
        old_logprobs_T: [T] log-probabilities under the policy that sampled; only `unbiased-k3` reads them.

    Raises:
        ValueError: there is no such estimator.
    """
    if kind == "unbiased-k3" and old_logprobs_T is not None:
        return kl_unbiased_k3(logprobs_T, reference_logprobs_T, old_logprobs_T)
    if kind == "k3":
        return kl_k3(logprobs_T, reference_logprobs_T)
    k2_T = kl_k2(logprobs_T, reference_logprobs_T)
    if kind == "k2":
        return k2_T
    if kind == "k1":
        return kl_k1(logprobs_T, reference_logprobs_T).detach() + (k2_T - k2_T.detach())
    raise ValueError(f"KL estimator {kind!r}; allowed: 'k1', 'k2', 'k3', 'unbiased-k3'")


ERROR_BOUND = 0.2
"""Largest relative error that a step of the controller answers to (Ziegler et al.)."""


def adapted_beta(beta: float, kl: float, target: float, rate: float) -> float:
    """The KL coefficient of the next rollout batch: beta * (1 + rate * clip(kl / target - 1, -0.2, 0.2)).

    Ziegler et al. (arXiv 1909.08593) section 2.2, a proportional controller in log space, whose `rate` is 0.1.

    Args:
        beta: of this batch.
        kl: measured, nats a completion.
        target: the KL that is wanted, nats a completion.
        rate: how fast to follow.
    """
    error = min(max(kl / target - 1, -ERROR_BOUND), ERROR_BOUND)
    return beta * (1 + rate * error)
