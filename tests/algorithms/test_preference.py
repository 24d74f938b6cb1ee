"""Losses of reward models: values by hand, gradients, and scores far apart."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.algorithms.preference import bradley_terry_loss, pointwise_loss


def test_bradley_terry_by_hand() -> None:
    chosen = torch.tensor([2.0, 0.0, -1.0, 3.0], dtype=torch.float64)
    rejected = torch.tensor([1.0, 0.0, 1.5, -3.0], dtype=torch.float64)
    # -ln(1 / (1 + e^-d)) for d = 1, 0, -2.5, 6
    expected = [0.3132616875182228, 0.6931471805599453, 2.5788897342925496, 0.0024756851377301]
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(expected, rel=1e-12)


def test_pointwise_by_hand() -> None:
    scores = torch.tensor([2.0, 2.0, 0.0, -4.0], dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 0])
    expected = [0.1269280110429726, 2.1269280110429727, 0.6931471805599453, 0.0181499279178098]
    assert pointwise_loss(scores, labels).tolist() == pytest.approx(expected, rel=1e-12)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(7, generator=generator, dtype=torch.float64).mul(3).requires_grad_() for _ in range(2))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    assert torch.autograd.gradcheck(bradley_terry_loss, (a, b))
    assert torch.autograd.gradcheck(lambda x: pointwise_loss(x, labels), (a,))
    (slope,) = torch.autograd.grad(bradley_terry_loss(a, b).sum(), a)
    # The preferred score is pushed up by the probability of the wrong order.
    assert torch.allclose(slope, -torch.sigmoid(b - a).detach())


def test_far_apart_and_half_precision_stay_finite() -> None:
    high, low = torch.tensor([1e4]), torch.tensor([-1e4])
    assert bradley_terry_loss(high, low).item() == 0
    assert bradley_terry_loss(low, high).item() == 2e4
    assert pointwise_loss(low, torch.tensor([1.0])).item() == 1e4
    half = torch.tensor([1.0], dtype=torch.bfloat16)
    assert bradley_terry_loss(half, -half).dtype == torch.float32
    assert math.isclose(bradley_terry_loss(half, -half).item(), math.log1p(math.exp(-2)), rel_tol=1e-6)
