"""Baselines that are not of a group's own rollouts; they are kept in the rollout file, so that a resumed run has them.

moving-average   mean of the mean rewards of all batches before: goes on from the file of the last one
greedy           reward of one more completion of the prompt, the most likely token at each place
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from rethink.errors import RunFolderError
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.sampler import Asked, sample
from rethink.store.run_folder import RunFolder
from rethink.types import Rollout, SamplingParams

COLUMN = "baseline"
"""Of the rollout file."""


def moving_average(folder: RunFolder, batch: int) -> float:
    """The baseline of a batch: 0 for the first one.

    Raises:
        RunFolderError: the batch before is not there, or is damaged.
    """
    if batch == 0:
        return 0.0
    path = folder.rollouts_path(batch - 1)
    if not path.exists():
        raise RunFolderError(
            f"`{path}` is missing, and the moving average of rewards goes on from it. Restore it from a copy, or start "
            "anew with another --out."
        )
    rows = folder.rollout_rows(batch - 1, ["reward", COLUMN])
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    before = float(rows[0][COLUMN])
    return ((batch - 1) * before + statistics.fmean(rewards)) / batch if rewards else before


def greedy(
    engine: RolloutEngine, rubric: Rubric, groups: Sequence[Sequence[Rollout]], params: SamplingParams, step: int
) -> tuple[list[float | None], float]:
    """The reward of each prompt's greedy completion, None where it has none; and the seconds that they took.

    Args:
        engine: who answers, with the version that sampled the groups.
        rubric: what scores.
        groups: rollouts of the prompts.
        params: how the rollouts were drawn.
        step: the update (from 0) that they are for.
    """
    asked = [Asked(g[0].problem, g[0].prompt, (0,), g[0].completion.version) for g in groups]
    most_likely = replace(params, temperature=0.0, top_p=1.0, top_k=0)
    sampled = sample(engine, rubric, asked, most_likely, step=step)
    return [rollout.reward for rollout in sampled.rollouts], sampled.rollout_seconds + sampled.reward_seconds


def recorded(folder: RunFolder, batch: int, size: int) -> list[float | None]:
    """The baseline of each group of a batch on disk; `size`: rollouts of a group."""
    return [row[COLUMN] for row in folder.rollout_rows(batch, [COLUMN])][::size]
