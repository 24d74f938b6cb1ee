"""Advantages of the rollouts of a group, from their rewards.

Axes: P prompts of a batch, G group size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

AdvantageKind = Literal["std", "mean", "leave-one-out", "gae"]

STD_EPSILON = 1e-6
"""Added to a group's standard deviation under `std`, against rounding alone: the published form has none. Rewards that
differ by 0.01 keep their advantages to three digits."""


def group_advantages(
    rewards_PG: Tensor, kind: AdvantageKind, valid_PG: Tensor | None = None, epsilon: float = STD_EPSILON
) -> Tensor:
    """Advantage of each rollout within its group.

    With r the valid rewards of a group:

    - `std`: (r - mean) / (std + epsilon), std unbiased (divided by n - 1): DeepSeek-R1 (arXiv 2501.12948) equation 3,
      DeepSeekMath (arXiv 2402.03300) section 4.1.2;
    - `mean`: r - mean: Dr. GRPO (arXiv 2503.20783), which drops the division;
    - `leave-one-out`: r - mean of the group's other rewards: RLOO (arXiv 2402.14740) equation 6;
    - `gae`: NaN, until a critic has said what it makes of the tokens (`gae.py`).

    A rollout without a reward takes no part in its group's statistics and gets 0. A group without signal (see
    `no_signal_groups`) gets exactly 0, not the rounding error of its mean, so that leaving it out changes nothing.

    Args:
        rewards_PG: [P, G] rewards, fp32 or fp64; computed in fp64. Entries that are not valid may hold anything.
        kind: which baseline and scale.
        valid_PG: [P, G] bool, False where the rubric gave no reward; None: all are valid.
        epsilon: added to the standard deviation under `std`.

    Returns:
        [P, G] advantages in the dtype of the rewards.

    Raises:
        ValueError: a shape or kind is wrong, or a valid reward is not finite.
    """
    rewards, valid = _masked(rewards_PG, valid_PG)
    if kind == "gae":
        return torch.full_like(rewards_PG, torch.nan)
    count = valid.sum(1, keepdim=True)
    total = rewards.sum(1, keepdim=True)
    mean = total / count.clamp(min=1)
    if kind == "std":
        squares = ((rewards - mean) ** 2 * valid).sum(1, keepdim=True)
        std = (squares / (count - 1).clamp(min=1)).sqrt()
        advantages = (rewards - mean) / (std + epsilon)
    elif kind == "mean":
        advantages = rewards - mean
    elif kind == "leave-one-out":
        advantages = rewards - (total - rewards) / (count - 1).clamp(min=1)
    else:
        raise ValueError(f"advantage kind {kind!r}; allowed: 'std', 'mean', 'leave-one-out', 'gae'")
    counts = valid & ~no_signal_groups(rewards_PG, valid_PG)[:, None]
    return torch.where(counts, advantages, 0.0).to(rewards_PG.dtype)


def no_signal_groups(rewards_PG: Tensor, valid_PG: Tensor | None = None) -> Tensor:
    """Which groups teach nothing: all valid rewards equal, or fewer than two of them.

    Args:
        rewards_PG: [P, G] rewards; entries that are not valid may hold anything.
        valid_PG: [P, G] bool; None: all are valid.

    Returns:
        [P] bool.

    Raises:
        ValueError: a shape is wrong, or a valid reward is not finite.
    """
    rewards, valid = _masked(rewards_PG, valid_PG)
    highest = torch.where(valid, rewards, -torch.inf).amax(1)
    lowest = torch.where(valid, rewards, torch.inf).amin(1)
    return (valid.sum(1) < 2) | (highest == lowest)


def _masked(rewards_PG: Tensor, valid_PG: Tensor | None) -> tuple[Tensor, Tensor]:
    """The rewards in fp64 with 0 where they are not valid, and which are valid."""
    if rewards_PG.ndim != 2:
        raise ValueError(f"rewards must be [P, G]; got shape {tuple(rewards_PG.shape)}")
    valid = torch.ones_like(rewards_PG, dtype=torch.bool) if valid_PG is None else valid_PG.bool()
    if valid.shape != rewards_PG.shape:
        raise ValueError(f"valid has shape {tuple(valid.shape)}, rewards {tuple(rewards_PG.shape)}")
    rewards = torch.where(valid, rewards_PG.double(), 0.0)
    if not torch.isfinite(rewards).all():
        raise ValueError("a valid reward is not finite; mark it as not valid instead")
    return rewards, valid
