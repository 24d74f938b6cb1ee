"""Advantages and value losses against numbers derived in exact fractions (`derive_gae.py`), and what the papers say."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from rethink.algorithms.gae import adaptive_lambda, explained_variance, gae, value_loss, whitened
from tests.algorithms.derive_gae import CASES, Case, advantages, lambda_by_length


def f64(values: list[float] | list[Fraction]) -> torch.Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_advantages_are_those_of_the_definition(case: Case) -> None:
    found = gae(f64(case.rewards), f64(case.values), torch.tensor([len(case.rewards)]), float(case.gamma),
                f64([case.lambda_]))  # fmt: skip
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([float(a) for a in advantages(case)], rel=1e-13, abs=1e-15)


def test_completions_do_not_touch_each_other() -> None:
    """Packed, each with a lambda of its own, one of them empty."""
    gamma = Fraction("0.9")
    cases = [case._replace(gamma=gamma) for case in CASES]
    rewards, values, lambdas = [], [], []
    for case in cases:
        rewards += case.rewards
        values += case.values
        lambdas.append(case.lambda_)
    lengths = torch.tensor([len(case.rewards) for case in cases[:2]] + [0] + [len(c.rewards) for c in cases[2:]])
    decays = f64([*lambdas[:2], Fraction(1), *lambdas[2:]])
    expected = [float(a) for case in cases for a in advantages(case)]
    assert gae(f64(rewards), f64(values), lengths, 0.9, decays).tolist() == pytest.approx(expected, rel=1e-13)
    none = torch.zeros(0)
    assert gae(none, none, torch.zeros(0, dtype=torch.long), 1.0, none).tolist() == []


def test_with_lambda_and_gamma_one_it_is_returns_less_values() -> None:
    rewards, values = f64([0.0, 0.5, 0.0, 2.0]), f64([1.0, -3.0, 0.25, 7.0])
    returns = rewards.flip(0).cumsum(0).flip(0)
    found = gae(rewards, values, torch.tensor([4]), 1.0, f64([1.0]))
    assert torch.allclose(found, returns - values, rtol=0, atol=1e-14)


def test_lambda_grows_with_the_length() -> None:
    lengths = [1, 19, 20, 40, 64, 4000]
    expected = [float(lambda_by_length(length, Fraction("0.05"))) for length in lengths]
    assert adaptive_lambda(torch.tensor(lengths), 0.05).tolist() == pytest.approx(expected, rel=1e-13)
    assert expected[:3] == [0, 0, 0]
    assert expected[-1] == pytest.approx(0.995)
    total = sum(expected[-1] ** place for place in range(100_000))  # the sum that section 4.2 sets to scale * length
    assert total == pytest.approx(0.05 * 4000, rel=1e-6)


def test_whitened_advantages() -> None:
    found = whitened(f64([1.0, 2.0, 3.0, 6.0]))
    assert float(found.mean()) == pytest.approx(0, abs=1e-15)
    assert float(found.square().mean()) == pytest.approx(1, rel=1e-7)
    assert whitened(f64([0.3, 0.3])).tolist() == [0, 0]
    assert whitened(torch.zeros(0)).tolist() == []


def test_the_value_loss_takes_the_larger_error() -> None:
    """Written out: value, value before, return, loss and slope with a clip of 0.2."""
    rows = [
        (1.0, 0.9, 2.0, 0.5, -1.0, False),  # within the clip: the plain error
        (1.5, 1.0, 2.0, 0.8**2 / 2, 0.0, True),  # moved towards the return beyond the clip: held at 1.2
        (0.5, 1.0, 2.0, 1.5**2 / 2, -1.5, False),  # moved away: the plain error is the larger
        (3.0, 1.0, 2.0, 0.5, 1.0, False),  # past the return; that held at 1.2 is smaller: 0.32
    ]
    values = f64([row[0] for row in rows]).requires_grad_()
    losses, held = value_loss(values, f64([row[1] for row in rows]), f64([row[2] for row in rows]), 0.2)
    (slopes,) = torch.autograd.grad(losses.sum(), values)
    assert losses.tolist() == pytest.approx([row[3] for row in rows])
    assert slopes.tolist() == pytest.approx([row[4] for row in rows])
    assert held.tolist() == [row[5] for row in rows]
    plain, none = value_loss(values, values, f64([row[2] for row in rows]), None)
    assert plain.tolist() == pytest.approx([(row[0] - row[2]) ** 2 / 2 for row in rows])
    assert not none.any()


def test_explained_variance() -> None:
    returns = f64([0.0, 1.0, 2.0, 5.0])
    assert explained_variance(returns + 3, returns) == pytest.approx(1)
    assert explained_variance(torch.full_like(returns, 9.0), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert math.isnan(explained_variance(returns, torch.ones(4)))
