"""Losses and KL: value and gradient against closed forms, at the bounds and far beyond them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rethink.algorithms import kl, losses
from rethink.algorithms.losses import Tokens
from rethink.algorithms.precision import MAX_LOG_RATIO, probability_ratio
from rethink.recipe.schema import AlgorithmSection


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clipped_loss(
    new: Tensor, old: Tensor, advantages: Tensor, clip_low: float | None, clip_high: float | None
) -> losses.PolicyLossTerms:
    return losses.clip_ratio(probability_ratio(new, old), advantages, clip_low, clip_high)


def random_tokens(number: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    old = -torch.rand(number, generator=generator, dtype=torch.float64) * 4
    new = old + torch.randn(number, generator=generator, dtype=torch.float64) * 0.5
    reference = old + torch.randn(number, generator=generator, dtype=torch.float64) * 0.5
    advantages = torch.randn(number, generator=generator, dtype=torch.float64)
    advantages[::10] = 0
    return new, old, reference, advantages


@pytest.mark.parametrize(("clip_low", "clip_high"), [(0.2, 0.2), (0.2, 0.28), (10.0, 10.0), (1.0, 0.0), (0.0, 3.0)])
def test_value_and_gradient_are_those_of_the_min_form(clip_low: float, clip_high: float) -> None:
    new, old, _, advantages = random_tokens()
    new.requires_grad_()
    terms = clipped_loss(new, old, advantages, clip_low, clip_high)
    ratio = (new.detach() - old).exp()
    low, high = max(0.0, 1 - clip_low), 1 + clip_high
    for t in range(len(ratio)):
        r, a = float(ratio[t]), float(advantages[t])
        expected = -min(r * a, min(max(r, low), high) * a)
        assert math.isclose(float(terms.loss_T[t].detach()), expected, rel_tol=1e-12, abs_tol=1e-15)
    (gradient,) = torch.autograd.grad(terms.loss_T.sum(), new)
    clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    torch.testing.assert_close(gradient, torch.where(clipped, 0.0, -advantages * ratio), rtol=1e-12, atol=1e-14)
    assert torch.equal(terms.clipped_low_T | terms.clipped_high_T, clipped)
    assert torch.equal(terms.clipped_low_T, clipped & (advantages < 0))
    assert clip_low < 1 or not terms.clipped_low_T.any()
    assert not terms.ratio_T.requires_grad


def test_on_policy_the_gradient_is_the_advantage() -> None:
    new = f64(-1.0, -2.0, -0.1).requires_grad_()
    terms = clipped_loss(new, new.detach(), f64(1.0, -2.0, 0.0), 0.2, 0.2)
    (gradient,) = torch.autograd.grad(terms.loss_T.sum(), new)
    assert terms.loss_T.tolist() == [-1.0, 2.0, 0.0]
    assert gradient.tolist() == [-1.0, 2.0, 0.0]
    assert not (terms.clipped_low_T | terms.clipped_high_T).any()


def test_a_ratio_that_would_overflow_stays_finite_in_fp32() -> None:
    new = torch.tensor([-0.1, -0.1]).requires_grad_()
    terms = clipped_loss(new, torch.tensor([-500.0, -500.0]), torch.tensor([1.0, -1.0]), 0.2, 0.2)
    (gradient,) = torch.autograd.grad(terms.loss_T.sum(), new)
    torch.testing.assert_close(terms.loss_T, torch.tensor([-1.2, math.exp(MAX_LOG_RATIO)]))
    assert gradient.tolist() == [0.0, 0.0]


def test_a_ratio_that_vanishes_is_zero() -> None:
    terms = clipped_loss(f64(-900.0, -900.0), f64(0.0, 0.0), f64(1.0, -1.0), 0.2, 0.2)
    torch.testing.assert_close(terms.loss_T, f64(0.0, 0.8))


def test_bf16_log_probabilities_are_not_subtracted_in_bf16() -> None:
    new, old = torch.tensor([-1.0078125], dtype=torch.bfloat16), torch.tensor([-1.0], dtype=torch.bfloat16)
    terms = clipped_loss(new, old, torch.ones(1), 0.2, 0.2)
    assert terms.ratio_T.dtype == torch.float32
    torch.testing.assert_close(terms.ratio_T, torch.tensor([math.exp(-0.0078125)]))


def test_dual_clip_bounds_a_negative_advantage_from_above() -> None:
    ratio = f64(5.0, 5.0, 1.1).requires_grad_()
    terms = losses.clip_ratio(ratio, f64(1.0, -1.0, -1.0), 0.2, 0.2, dual_clip=3.0)
    assert terms.loss_T.tolist() == [-1.2, 3.0, 1.1]
    assert terms.clipped_high_T.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="above 1"):
        losses.clip_ratio(ratio, ratio, 0.2, 0.2, dual_clip=1.0)


def test_a_ratio_at_its_bound_is_not_clipped() -> None:
    """It has its gradient, and does not count as clipped."""
    ratio = f64(1.25, 0.75, 3.0).requires_grad_()
    terms = losses.clip_ratio(ratio, f64(1.0, -1.0, -1.0), 0.25, 0.25, dual_clip=3.0)
    assert not (terms.clipped_low_T | terms.clipped_high_T).any()
    (gradient,) = torch.autograd.grad(terms.loss_T.sum(), ratio)
    assert gradient.tolist() == [-1.0, 1.0, 1.0]


def test_kl_estimators_and_their_gradients() -> None:
    new, _, reference, _ = random_tokens()
    new.requires_grad_()
    d = reference - new.detach()
    for estimator, value, gradient in [
        (kl.kl_k1, -d, torch.ones_like(d)),
        (kl.kl_k2, d**2 / 2, -d),
        (kl.kl_k3, d.exp() - d - 1, 1 - d.exp()),
    ]:
        out = estimator(new, reference)
        torch.testing.assert_close(out.detach(), value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), new)[0], gradient, rtol=1e-12, atol=1e-14)


def test_k3_is_exact_when_small_and_finite_when_large() -> None:
    small = kl.kl_k3(torch.tensor([-1e-3]), torch.tensor([0.0]))  # fp32: exp(d) - d - 1 would lose four digits
    torch.testing.assert_close(small.double(), f64(math.expm1(1e-3) - 1e-3), rtol=2e-4, atol=0)
    new = torch.tensor([-400.0, 0.0]).requires_grad_()
    k3 = kl.kl_k3(new, torch.tensor([0.0, -400.0]))
    torch.testing.assert_close(k3, torch.tensor([math.exp(20) - 21, 399.0]))
    assert torch.autograd.grad(k3.sum(), new)[0].tolist() == [0.0, 1.0]


def test_k3_estimates_the_divergence() -> None:
    policy, reference = f64(0.5, 0.3, 0.2), f64(0.2, 0.2, 0.6)
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * kl.kl_k3(policy.log(), reference.log())).sum(), exact)
    torch.testing.assert_close((policy * kl.kl_k1(policy.log(), reference.log())).sum(), exact)


def test_grpo_loss_is_policy_loss_plus_beta_k3() -> None:
    new, old, reference, advantages = random_tokens()
    new.requires_grad_()
    tokens = Tokens(new, old, advantages, reference_logprobs_T=reference)
    terms = losses.token_loss(tokens, AlgorithmSection(beta=0.04))
    policy = clipped_loss(new, old, advantages, 0.2, 0.2)
    k3 = kl.kl_k3(new, reference)
    torch.testing.assert_close(terms.loss_T, policy.loss_T + 0.04 * k3, rtol=0, atol=0)
    assert terms.kl_T is not None
    assert torch.equal(terms.kl_T, k3.detach())
    assert not terms.kl_T.requires_grad


def test_without_beta_the_reference_is_only_measured() -> None:
    new, old, reference, advantages = random_tokens()
    new.requires_grad_()
    bare = losses.token_loss(Tokens(new, old, advantages), AlgorithmSection())
    measured = losses.token_loss(Tokens(new, old, advantages, reference_logprobs_T=reference), AlgorithmSection())
    assert bare.kl_T is None
    assert measured.kl_T is not None
    assert torch.equal(bare.loss_T, measured.loss_T)
    with pytest.raises(ValueError, match="reference"):
        losses.token_loss(Tokens(new, old, advantages), AlgorithmSection(beta=0.01))


def test_sequence_ratio_is_the_geometric_mean_of_each_completion() -> None:
    new, old = f64(-1.0, -2.0, -0.5).requires_grad_(), f64(-1.5, -1.0, -0.25)
    ratio = losses.sequence_ratio(new, old, torch.tensor([2, 1]))
    torch.testing.assert_close(ratio.detach(), f64(-0.25, -0.25, -0.25).exp())
    (gradient,) = torch.autograd.grad(ratio[0], new)
    torch.testing.assert_close(gradient, f64(0.5, 0.5, 0.0) * math.exp(-0.25))
    with pytest.raises(ValueError, match="lengths sum to 2"):
        losses.sequence_ratio(new, old, torch.tensor([1, 1]))


def test_importance_weights_carry_no_gradient() -> None:
    new = f64(-1.0, -1.0).requires_grad_()
    weights, cut = losses.importance_weights(new, f64(-1.5, -3.0), maximum=2.0)
    torch.testing.assert_close(weights, f64(math.exp(0.5), 2.0))
    assert cut.tolist() == [False, True]
    assert not weights.requires_grad
    whole, none = losses.importance_weights(new, f64(-1.5, -3.0))
    torch.testing.assert_close(whole, f64(math.exp(0.5), math.exp(2)))
    assert not none.any()
    _, at_most = losses.importance_weights(new, f64(-1.0, -1.0), maximum=1.0)
    assert not at_most.any()
