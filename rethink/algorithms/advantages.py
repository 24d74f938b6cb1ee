"""Advantages of rollouts, from their rewards; `rethink/recipe/terms.py` (ADVANTAGES) says what each kind is.

Axes: P prompts of a batch, G group size, N rollouts (= P * G), R reward functions, T tokens of a rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor

STD_EPSILON = 1e-6
"""Added to a standard deviation that is divided by, against rounding alone: the published forms have none, or one as
small. Rewards that differ by 0.01 keep their advantages to three digits."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What advantages are made of."""

    rewards_PG: Tensor
    """[P, G] fp32 or fp64; entries that are not valid may hold anything."""
    valid_PG: Tensor
    """[P, G] bool, False where the rubric gave no reward."""
    scores_PGR: Tensor | None = None
    """[P, G, R] scores of the reward functions, NaN where one gave none: for `gdpo`."""
    weights_R: Tensor | None = None
    """[R] weights of the reward functions."""


def batch_advantages(scored: Scored, kind: str, options: Mapping[str, float]) -> Tensor:
    """[P, G] advantage of each rollout, before it is normalised over the batch (`normalised`); 0 without a reward.

    Args:
        scored: computed in fp64; the result has the dtype of the rewards.
        kind: a key of `ADVANTAGES`.
        options: its numbers.

    Raises:
        ValueError: a shape or kind is wrong, a valid reward is not finite, or is negative where the kind forbids it.
    """
    made = _KINDS.get(kind)
    if made is not None:
        return made(scored, options)
    return group_advantages(scored.rewards_PG, kind, scored.valid_PG)


def group_advantages(
    rewards_PG: Tensor, kind: str, valid_PG: Tensor | None = None, epsilon: float = STD_EPSILON
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
        raise ValueError(
            f"advantage kind {kind!r}; allowed: 'std', 'mean', 'leave-one-out', 'gae', {str([*_KINDS])[1:-1]}"
        )
    counts = valid & ~no_signal_groups(rewards_PG, valid_PG)[:, None]
    return torch.where(counts, advantages, 0.0).to(rewards_PG.dtype)


def no_signal_groups(rewards_PG: Tensor, valid_PG: Tensor | None = None) -> Tensor:
    """Which groups hold nothing to compare: all valid rewards equal, or fewer than two of them.

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


def returns(advantage: float, penalties_T: Tensor) -> Tensor:
    """[T] the advantage less the penalties from each token on: REINFORCE++ (arXiv 2501.03262) equation 8.

    Args:
        advantage: of the rollout, whose reward comes at its end.
        penalties_T: [T] beta times the KL of each token (nats).
    """
    return advantage - penalties_T.flip(0).cumsum(0).flip(0)


def normalised(advantages: Sequence[Tensor], epsilon: float = STD_EPSILON) -> list[Tensor]:
    """(A - mean) / (std + epsilon) over all tokens of all rollouts, std unbiased: REINFORCE++ equation 10.

    Args:
        advantages: [T] of each rollout that has a reward, in fp64.
        epsilon: added to the standard deviation.

    Returns:
        The same in order; exactly 0 where all are equal.
    """
    tokens = torch.cat([*advantages, torch.empty(0, dtype=torch.float64)])
    if not len(tokens) or bool(tokens.min() == tokens.max()):
        return [torch.zeros_like(one) for one in advantages]
    std, mean = torch.std_mean(tokens)
    return [(one - mean) / (std + epsilon) for one in advantages]


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


def _plain(scored: Scored, _: Mapping[str, float]) -> Tensor:
    return _masked(scored.rewards_PG, scored.valid_PG)[0].to(scored.rewards_PG.dtype)


def _less_mean(scored: Scored, _: Mapping[str, float]) -> Tensor:
    return group_advantages(scored.rewards_PG, "mean", scored.valid_PG)


def _with_signal(scored: Scored, _: Mapping[str, float]) -> Tensor:
    groups = len(scored.rewards_PG)
    useful = groups - int(no_signal_groups(scored.rewards_PG, scored.valid_PG).sum())
    return _less_mean(scored, _) * (groups / max(useful, 1))


def _over_mean(scored: Scored, _: Mapping[str, float]) -> Tensor:
    rewards, valid = _masked(scored.rewards_PG, scored.valid_PG)
    if bool((rewards < 0).any()):
        raise ValueError("a reward is negative, and this advantage divides by the mean reward of a group")
    mean = rewards.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
    return _less_mean(scored, _) / torch.where(mean > 0, mean, 1.0).to(scored.rewards_PG.dtype)


def _by_reward(scored: Scored, _: Mapping[str, float]) -> Tensor:
    """Each reward function by itself, then all rollouts of the batch together."""
    assert scored.scores_PGR is not None
    assert scored.weights_R is not None
    known_PGR = ~scored.scores_PGR.isnan() & scored.valid_PG[..., None]
    summed_PG = torch.zeros_like(scored.rewards_PG)
    for number, weight in enumerate(scored.weights_R.tolist()):
        if weight:
            part = group_advantages(scored.scores_PGR[..., number], "std", known_PGR[..., number])
            summed_PG += weight * part
    (known,) = normalised([summed_PG[scored.valid_PG]])
    return torch.zeros_like(summed_PG).masked_scatter(scored.valid_PG, known.to(summed_PG.dtype))


def _of_sets(of_group: Callable[[Tensor, int], Tensor]) -> Callable[[Scored, Mapping[str, float]], Tensor]:
    """The advantages [P, G] that come of a function of the valid rewards of a group, rising, and of k."""

    def made(scored: Scored, options: Mapping[str, float]) -> Tensor:
        rewards, valid = _masked(scored.rewards_PG, scored.valid_PG)
        out, k = torch.zeros_like(rewards), int(options["k"])
        silent = no_signal_groups(scored.rewards_PG, scored.valid_PG)
        for place, (row, known) in enumerate(zip(rewards, valid, strict=True)):
            ordered, order = row[known].sort()
            if len(ordered) >= k and not silent[place]:
                found = torch.empty_like(ordered)
                found[order] = of_group(ordered, k)
                out[place, known] = found
        return out.to(scored.rewards_PG.dtype)

    return made


def _best_with_each(ordered_G: Tensor, k: int) -> Tensor:
    """[G] mean best reward of the sets of k that hold each rollout, of rewards in rising order."""
    size, found = len(ordered_G), torch.zeros_like(ordered_G)
    for place in range(size):
        # It is the best of the sets of lower ones; a higher one is the best of those with it and lower ones still.
        found[place] = comb(place, k - 1) * ordered_G[place]
        for other in range(place + 1, size) if k > 1 else ():
            found[place] += comb(other - 1, k - 2) * ordered_G[other]
    return found / comb(size - 1, k - 1)


def _best_without_each(ordered_G: Tensor, k: int) -> Tensor:
    """[G] mean best reward of the k - 1 others in the sets of k that hold each rollout."""
    size, found = len(ordered_G), torch.zeros_like(ordered_G)
    for place in range(size):
        others = [ordered_G[other] for other in range(size) if other != place]
        found[place] = sum((comb(rank, k - 2) * value for rank, value in enumerate(others)), ordered_G.new_zeros(()))
    return found / comb(size - 1, k - 1)


def _pass_at_k(ordered_G: Tensor, k: int) -> Tensor:
    size = len(ordered_G)
    shares = torch.tensor([comb(place, k - 1) / comb(size, k) for place in range(size)], dtype=torch.float64)
    mean = (shares * ordered_G).sum()
    variance = (shares * (ordered_G - mean) ** 2).sum()
    if variance <= 1e-24 * ordered_G.abs().max() ** 2:  # every set has an equally good best: nothing to learn
        return torch.zeros_like(ordered_G)
    return (_best_with_each(ordered_G, k) - mean) / variance.sqrt()


def _max_at_k(ordered_G: Tensor, k: int) -> Tensor:
    return k * (_best_with_each(ordered_G, k) - _best_without_each(ordered_G, k))


_KINDS: Mapping[str, Callable[[Scored, Mapping[str, float]], Tensor]] = {
    "none": _plain,
    "moving-average": _plain,
    "greedy": _plain,
    "batch": _plain,
    "mean-batch": _less_mean,
    "gpg": _with_signal,
    "max-rl": _over_mean,
    "gdpo": _by_reward,
    "pass-at-k": _of_sets(_pass_at_k),
    "max-at-k": _of_sets(_max_at_k),
}
"""Those that are not of `group_advantages`."""
