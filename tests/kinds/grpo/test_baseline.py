"""Baselines from elsewhere: a moving average over batches, and a greedy completion of each prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError
from rethink.kinds.grpo.weigh import weighed
from rethink.store.run_folder import RunFolder
from tests.algorithms import papers
from tests.kinds.grpo.test_penalty import REWARDS, SHORT, rollouts
from tests.kinds.grpo.test_update import recipe
from tests.runs.compare import same_run

ONE_UPDATE = ("algorithm={type: reinforce}", "rollout.group_size=2", "optimizer.warmup_steps=0", *SHORT)


def test_rewards_less_their_baselines() -> None:
    chosen = recipe("algorithm.type=reinforce", "algorithm.advantage=greedy", "rollout.group_size=2")
    found = weighed(chosen, rollouts(list(REWARDS)), None, [0.25, None])
    assert [r.advantage for group in found for r in group] == [0.75, -0.75, 0.0, 0.0]


def columns(out: Path, batch: int, *names: str) -> list[list[Any]]:
    rows = RunFolder.open(out).rollout_rows(batch, list(names))
    return [[row[name] for row in rows] for name in names]


def test_a_moving_average_goes_on_from_batch_to_batch(run: Callable[..., Any], tmp_path: Path) -> None:
    wanted = (*ONE_UPDATE, "algorithm.advantage=moving-average", "rollout.group_size=1", "rollout.prompts_per_batch=8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, *wanted, "steps=3")
    run(parts, *wanted, "steps=2")
    run(parts, *wanted, "steps=3", resume=True)
    same_run(whole, parts)
    means = []
    for batch in range(3):
        rewards, baselines, advantages = columns(whole, batch, "reward", "baseline", "advantage")
        assert baselines == pytest.approx([papers.mean(means) if means else 0.0] * 8)
        assert advantages == pytest.approx([r - b for r, b in zip(rewards, baselines, strict=True)])
        means.append(papers.mean(rewards))
    assert all(row["optimizer/grad_norm"] > 0 for row in RunFolder.open(whole).metrics()[1:])
    assert len({round(mean, 6) for mean in means}) == 3
    RunFolder.open(parts).rollouts_path(2).unlink()
    with pytest.raises(RunFolderError, match="moving average of rewards goes on from it"):
        run(parts, *wanted, "steps=4", resume=True)


def test_a_greedy_completion_of_each_prompt(run: Callable[..., Any], tmp_path: Path) -> None:
    wanted = (*ONE_UPDATE, "algorithm.advantage=greedy")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, *wanted, "steps=2")
    run(parts, *wanted, "steps=1")
    run(parts, *wanted, "steps=2", resume=True)
    same_run(whole, parts)
    rewards, baselines, advantages = columns(whole, 0, "reward", "baseline", "advantage")
    assert baselines[::2] == baselines[1::2]
    assert advantages == pytest.approx([r - b for r, b in zip(rewards, baselines, strict=True)])
    # The same prompt, greedy by an independent run that samples at a temperature of nearly 0.
    run(tmp_path / "cold", *wanted, "steps=1", "rollout.temperature=1e-4")
    (cold,) = columns(tmp_path / "cold", 0, "reward")
    assert cold == pytest.approx(baselines)
