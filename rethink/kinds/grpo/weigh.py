"""Rollouts to rollouts with advantages: each with one, or with one for each of its tokens.

Axes: P groups, G group size, R reward functions, T tokens of a rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rethink.algorithms.advantages import Scored, batch_advantages, no_signal_groups, normalised, returns
from rethink.errors import RewardFailure
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.schema import AlgorithmSection
from rethink.recipe.terms import ADVANTAGES
from rethink.types import Rollout

Groups = tuple[tuple[Rollout, ...], ...]


def without_signal(recipe: Recipe, rollouts: Sequence[Rollout]) -> list[bool]:
    """Of each group, whether it has no advantages: nothing to compare, or no reward where nothing is compared."""
    rewards_PG, valid_PG = _table([r.reward for r in rollouts], recipe.rollout.group_size)
    if recipe.rollout.group_size == 1:
        silent_P = ~valid_PG.any(1)
    else:
        silent_P = no_signal_groups(rewards_PG, valid_PG)
    return (silent_P | _alike(recipe, rollouts)).tolist()


def weighed(
    recipe: Recipe,
    rollouts: Sequence[Rollout],
    penalties: Sequence[Tensor] | None = None,
    baselines: Sequence[float | None] = (),
) -> Groups:
    """The groups with their advantages, of which those that normalise over a batch do so over these rollouts.

    Args:
        recipe: of the run.
        rollouts: group after group.
        penalties: [T] of each rollout, beta times the KL of its tokens, where the KL is in the reward; tokens that the
            policy did not sample may hold anything.
        baselines: of each group, where they are not of its own rollouts; a group whose baseline is None has no
            advantages.

    Raises:
        RewardFailure: a reward is negative, and the kind of advantage cannot be of such a reward.
    """
    size, algorithm = recipe.rollout.group_size, recipe.algorithm
    rewards_PG, valid_PG = _table([r.reward for r in rollouts], size)
    kind = ADVANTAGES[algorithm.advantage]
    if kind.not_negative and bool((rewards_PG < 0).any()):
        raise RewardFailure(
            f"a rollout has the reward {float(rewards_PG.min()):g}, and `algorithm.advantage={algorithm.advantage}` "
            "divides by the mean reward of a group, so rewards must be 0 or more. Start anew with rewards that are, or "
            "with another advantage"
        )
    if kind.outside:
        given_PG, known_PG = _table([value for value in baselines for _ in range(size)], size)
        rewards_PG, valid_PG = rewards_PG - given_PG, valid_PG & known_PG
    if penalties is not None and kind.whole:
        sums = [float(p[r.trained].sum()) for p, r in zip(penalties, rollouts, strict=True)]
        rewards_PG -= torch.tensor(sums, dtype=torch.float64).view(-1, size)
    scored = Scored(rewards_PG, valid_PG, *(_scores(recipe, rollouts) if kind.by_part else ()))
    advantages_PG = batch_advantages(scored, algorithm.advantage, algorithm.options)
    advantages = advantages_PG.masked_fill(_alike(recipe, rollouts)[:, None], 0.0).reshape(-1).tolist()
    scored_N = valid_PG.reshape(-1).tolist()
    of_tokens = _of_tokens(algorithm, rollouts, advantages, scored_N, None if kind.whole else penalties)
    found = [replace(r, advantage=a) for r, a in zip(rollouts, of_tokens or advantages, strict=True)]
    return tuple(tuple(found[i : i + size]) for i in range(0, len(found), size))


def _alike(recipe: Recipe, rollouts: Sequence[Rollout]) -> Tensor:
    """[P] bool: the reward function that dynamic sampling looks at says the same of all rollouts of the group."""
    name, size = recipe.rollout.sampling_rounds.reward, recipe.rollout.group_size
    if name is None:
        return torch.zeros(len(rollouts) // size, dtype=torch.bool)
    return no_signal_groups(*_table([r.outcomes[name].score for r in rollouts], size))


def _table(values: Sequence[float | None], size: int) -> tuple[Tensor, Tensor]:
    """([P, G] values, 0 where there is none; [P, G] whether there is one)."""
    numbers = torch.tensor([value or 0.0 for value in values], dtype=torch.float64)
    return numbers.view(-1, size), torch.tensor([value is not None for value in values]).view(-1, size)


def _scores(recipe: Recipe, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
    """[P, G, R] scores of the reward functions, NaN where one gave none, and their weights [R]."""
    parts = recipe.reward.parts
    said = [[rollout.outcomes[part.name].score for part in parts] for rollout in rollouts]
    scores = [[torch.nan if score is None else score for score in row] for row in said]
    scores_PGR = torch.tensor(scores, dtype=torch.float64).view(-1, recipe.rollout.group_size, len(parts))
    return scores_PGR, torch.tensor([part.weight for part in parts], dtype=torch.float64)


def _of_tokens(
    algorithm: AlgorithmSection,
    rollouts: Sequence[Rollout],
    advantages: Sequence[float],
    scored_N: Sequence[bool],
    penalties: Sequence[Tensor] | None,
) -> list[float | np.ndarray[Any, Any]] | None:
    """The advantages of each rollout or of its tokens, where penalties or a normalisation change them; else None.

    Tokens that the policy did not sample have no part in it, nor have rollouts without a reward.
    """
    over_batch = ADVANTAGES[algorithm.advantage].normalised
    if penalties is None and not over_batch:
        return None
    trained = [torch.from_numpy(r.trained) for r in rollouts]
    found = [torch.full((int(t.sum()),), a, dtype=torch.float64) for t, a in zip(trained, advantages, strict=True)]
    if penalties is not None:
        found = [returns(a, p[t]) for a, p, t in zip(advantages, penalties, trained, strict=True)]
    scored = [place for place, known in enumerate(scored_N) if known]
    kept = [found[place] for place in scored]
    of_scored = dict(zip(scored, normalised(kept) if over_batch else kept, strict=True))
    spread: list[float | np.ndarray[Any, Any]] = [0.0] * len(rollouts)
    for place, values in of_scored.items():
        if penalties is None:
            spread[place] = float(values[0]) if len(values) else 0.0
            continue
        token_advantages = torch.zeros(len(trained[place]), dtype=torch.float64)
        spread[place] = token_advantages.masked_scatter_(trained[place], values).numpy()
    return spread
