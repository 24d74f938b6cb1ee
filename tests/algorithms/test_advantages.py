"""Group advantages: closed forms, what has no reward, what has no signal, and invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rethink.algorithms.advantages import group_advantages, no_signal_groups

KINDS: tuple[str, ...] = ("std", "mean", "leave-one-out")
REWARDS = st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0, -1.5]), min_size=2, max_size=8)


def grouped(rewards: list[float]) -> Tensor:
    return torch.tensor([rewards], dtype=torch.float64)


def test_closed_forms() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    std = (11 / 12) ** 0.5  # deviations -0.75, -0.75, 0.25, 1.25: squares sum to 2.75, over 3
    mean = torch.tensor([[-0.75, -0.75, 0.25, 1.25]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards, "mean"), mean, rtol=0, atol=1e-15)
    torch.testing.assert_close(group_advantages(rewards, "std"), mean / (std + 1e-6), rtol=0, atol=1e-14)
    torch.testing.assert_close(group_advantages(rewards, "leave-one-out"), mean * 4 / 3, rtol=0, atol=1e-14)


def test_small_differences_are_scaled_as_large_ones() -> None:
    """Two rewards are one standard deviation times 0.7071 from their mean, whatever the distance between them."""
    for distance in (1.0, 0.01):
        out = group_advantages(grouped([0.0, distance]), "std")
        torch.testing.assert_close(out, grouped([-(0.5**0.5), 0.5**0.5]), rtol=0, atol=2e-4)


def test_epsilon_is_added_to_the_deviation() -> None:
    out = group_advantages(grouped([0.0, 2.0]), "std", epsilon=0.5)
    torch.testing.assert_close(out, grouped([-1.0, 1.0]) / (2**0.5 + 0.5), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_rollout_without_reward_leaves_the_others_as_if_it_were_not_there(kind: str) -> None:
    rewards = torch.tensor([[1.0, float("nan"), 0.0, 0.5]], dtype=torch.float64)
    valid = torch.tensor([[True, False, True, True]])
    out = group_advantages(rewards, kind, valid)
    alone = group_advantages(rewards[:, [0, 2, 3]], kind)
    assert out[0, 1] == 0
    torch.testing.assert_close(out[:, [0, 2, 3]], alone, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_without_signal_the_advantage_is_exactly_zero(kind: str) -> None:
    # 0.1 has no exact mean in fp32: without care the advantage would be a rounding error over epsilon.
    rewards = torch.tensor([[0.1, 0.1, 0.1], [5.0, 9.0, 2.0], [1.0, 9.0, 1.0], [0.0, 1.0, 1.0]])
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
    out = group_advantages(rewards, kind, valid)
    assert no_signal_groups(rewards, valid).tolist() == [True, True, True, False]
    assert torch.equal(out[:3], torch.zeros(3, 3))
    assert (out[3] != 0).all()


def test_no_reward_at_all_and_a_group_of_one() -> None:
    assert torch.equal(
        group_advantages(torch.ones(1, 3), "std", torch.zeros(1, 3, dtype=torch.bool)), torch.zeros(1, 3)
    )
    assert torch.equal(group_advantages(torch.tensor([[3.0]]), "leave-one-out"), torch.zeros(1, 1))


def test_groups_do_not_mix() -> None:
    first, second = torch.tensor([[0.0, 1.0]]), torch.tensor([[100.0, 300.0]])
    both = group_advantages(torch.cat([first, second]), "std")
    assert torch.equal(both, torch.cat([group_advantages(first, "std"), group_advantages(second, "std")]))


def test_refuses_what_is_not_a_reward() -> None:
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(grouped([1.0, float("nan")]), "mean")
    with pytest.raises(ValueError, match=r"must be \[P, G\]; got shape \(3,\)"):
        group_advantages(torch.ones(3), "mean")
    with pytest.raises(ValueError, match=r"valid has shape \(1, 2\)"):
        group_advantages(torch.ones(1, 3), "mean", torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\[P, G\]"):
        group_advantages(torch.zeros(4), "mean")
    with pytest.raises(ValueError, match="shape"):
        group_advantages(torch.zeros(2, 4), "mean", torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="leave-one-out"):
        group_advantages(torch.zeros(2, 4), "median")


@given(REWARDS, st.sampled_from(KINDS), st.floats(-100, 100))
def test_a_shift_of_all_rewards_changes_nothing(rewards: list[float], kind: str, shift: float) -> None:
    shifted = group_advantages(grouped(rewards) + shift, kind)
    # 1e-12 relative to the shift, divided by a deviation of at least 0.08 here.
    torch.testing.assert_close(shifted, group_advantages(grouped(rewards), kind), rtol=0, atol=1e-11)


@given(REWARDS, st.sampled_from(KINDS), st.randoms())
def test_order_within_a_group_does_not_matter(rewards: list[float], kind: str, random: object) -> None:
    order = list(range(len(rewards)))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = group_advantages(grouped(rewards)[:, order], kind)
    torch.testing.assert_close(moved, group_advantages(grouped(rewards), kind)[:, order], rtol=0, atol=1e-13)


@given(REWARDS, st.sampled_from(KINDS))
def test_advantages_of_a_group_sum_to_zero(rewards: list[float], kind: str) -> None:
    assert abs(float(group_advantages(grouped(rewards), kind).sum())) < 1e-11
