"""The KL in the reward, and a coefficient that follows a target: numbers, and resume to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rethink.errors import RewardFailure
from rethink.kinds.grpo.collect import assemble
from rethink.kinds.grpo.penalty import Penalty, adapt
from rethink.kinds.grpo.update import UpdateStats
from rethink.kinds.grpo.weigh import weighed
from rethink.store.run_folder import RunFolder
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout, Turn
from tests.algorithms import papers
from tests.kinds.grpo.test_update import checkpoint, close, gradients, groups, recipe  # noqa: F401 (a fixture)
from tests.runs.compare import same_run

KLS = [[0.1, -0.3], [0.2], [0.4, 0.0, 0.1], [0.0, 0.3]]
REWARDS = [1.0, -0.5, 2.0, 0.0]
SMALL = ("rollout.group_size=2", "rollout.prompts_per_batch=2", "algorithm.beta=0.7", "algorithm.kl_in=reward")


def rollouts(rewards: list[float | None]) -> list[Rollout]:
    found = []
    for reward, kl in zip(rewards, KLS, strict=True):
        none = np.zeros(len(kl), np.float32)
        said = Completion(np.zeros(len(kl), np.int32), "", none, none, "stop")
        outcomes = {"accuracy": RewardOutcome(reward), "format": RewardOutcome(None)}
        found.append(Rollout(Problem("", "", "", None), Prompt("", (1,)), said, outcomes, reward))
    return found


def advantages(overrides: tuple[str, ...], made: list[Rollout], beta: float | None = 0.7) -> list[Any]:
    penalties = None if beta is None else [beta * torch.tensor(kl, dtype=torch.float64) for kl in KLS]
    return [r.advantage for group in weighed(recipe(*SMALL, *overrides), made, penalties) for r in group]


def test_returns_with_the_kl_are_those_of_the_paper() -> None:
    found = advantages(("algorithm.type=reinforce++",), rollouts(list(REWARDS)))
    for values, wanted in zip(found, papers.reinforce_pp(REWARDS, KLS, 0.7), strict=True):
        assert values == pytest.approx(wanted, abs=1e-5)
    plain = advantages(("algorithm.advantage=none",), rollouts(list(REWARDS)))
    assert plain[2].tolist() == pytest.approx([2 - 0.35, 2 - 0.07, 2 - 0.07])


def test_a_group_compares_rewards_that_the_kl_was_taken_off() -> None:
    found = advantages(("algorithm.advantage=leave-one-out",), rollouts(list(REWARDS)))
    less = [r - 0.7 * sum(kl) for r, kl in zip(REWARDS, KLS, strict=True)]
    assert found == pytest.approx([less[0] - less[1], less[1] - less[0], less[2] - less[3], less[3] - less[2]])


def test_normalised_over_the_tokens_of_the_batch_without_a_kl() -> None:
    """A long completion counts as often as it has tokens; one without a reward has no part."""
    found = advantages(("algorithm.type=reinforce++",), rollouts([1.0, None, 2.0, 0.0]), None)
    tokens = [1.0, 1.0, 2.0, 2.0, 2.0, 0.0, 0.0]
    wanted = [(r - papers.mean(tokens)) / papers.std(tokens) for r in (1.0, 2.0, 0.0)]
    assert [found[0], found[2], found[3]] == pytest.approx(wanted, abs=1e-5)
    assert found[1] == 0


def test_tokens_that_were_not_sampled_have_no_kl() -> None:
    made = rollouts(list(REWARDS))
    made[2] = replace(made[2], turns=(Turn(0, 1), Turn(2, 3)))
    penalties = [torch.tensor(kl, dtype=torch.float64) for kl in KLS]
    penalties[2][1] = torch.nan
    for kind in ("none", "leave-one-out"):
        groups_of = weighed(recipe(*SMALL, f"algorithm.advantage={kind}"), made, penalties)
        found = np.broadcast_to(groups_of[1][0].advantage, 3)
        assert found[[0, 2]] == pytest.approx([2 - 0.5, 2 - 0.1] if kind == "none" else [2 - 0.5 + 0.3] * 2)


def test_negative_rewards_cannot_be_divided_by_their_mean() -> None:
    with pytest.raises(RewardFailure, match=r"a rollout has the reward -0.5, and `algorithm.advantage=max-rl` divides"):
        assemble(recipe(*SMALL[:2], "algorithm.type=maxrl"), 0, rollouts(list(REWARDS)))


def test_each_reward_function_counts_by_itself() -> None:
    made = rollouts(list(REWARDS))
    scores = [[[1.0, 0.0], [0.25, 0.75]], [[1.0, 1.0], [0.5, 0.0]]]
    for place, rollout in enumerate(made):
        group, number = divmod(place, 2)
        named = zip(("accuracy", "format"), scores[group], strict=True)
        made[place] = replace(rollout, outcomes={name: RewardOutcome(part[number]) for name, part in named})
    parts = "reward.parts=[{name: accuracy, weight: 2}, {name: format, weight: 0.5}]"
    batch = assemble(recipe(*SMALL[:2], "algorithm.type=gdpo", parts), 0, made)
    wanted = [value for row in papers.gdpo(scores, [2.0, 0.5]) for value in row]
    assert [r.advantage for r in batch.rollouts] == pytest.approx(wanted, abs=1e-4)


def test_the_coefficient_of_a_mini_batch_wins(checkpoint: Any) -> None:  # noqa: F811
    found = []
    for beta, own in ((0.3, None), (0.1, 0.3)):
        chosen = recipe(f"algorithm.beta={beta}", "algorithm.epochs=2")
        found.append(gradients(chosen, checkpoint, groups(), 60, [False] * 4, beta=own))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-14)
    close(found[0][1], found[1][1])


SHORT = ("evaluation={problems: 0}", "optimizer.schedule=constant", "checkpoint.every=1")


@pytest.mark.parametrize("place", ["reward", pytest.param("loss", marks=pytest.mark.slow)])
def test_resumed_in_the_midst_of_a_batch(run: Callable[..., Any], tmp_path: Path, place: str) -> None:
    wanted = (*SHORT, "algorithm.type=reinforce++", f"algorithm.kl_in={place}", "algorithm.kl_target=0.05")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, *wanted, "steps=6")
    run(parts, *wanted, "steps=5")
    run(parts, *wanted, "steps=6", resume=True)
    same_run(whole, parts)
    rows = RunFolder.open(whole).metrics()[1:]
    assert [row["policy/beta"] for row in rows] == [0.02] * 4 + [papers.controller(0.02, 0, 0.05)] * 2
    assert [row["policy/kl"] == 0 for row in rows[3:]] == ([True, False, False] if place == "reward" else [False] * 3)


def test_the_kl_that_the_coefficient_follows() -> None:
    chosen = recipe(*SMALL, "algorithm.kl_target=0.21", "algorithm.advantage=none")
    batch = assemble(chosen, 0, rollouts(list(REWARDS)))
    in_reward = Penalty(0.7, [torch.tensor(kl, dtype=torch.float64) for kl in KLS])
    adapt(in_reward, chosen.algorithm, batch, UpdateStats(), 4)
    assert in_reward.beta == pytest.approx(papers.controller(0.7, sum(map(sum, KLS)) / 4, 0.21))
    assert in_reward.metrics(chosen.algorithm, batch)["policy/kl"] == pytest.approx(sum(map(sum, KLS)) / 8)
    in_loss = Penalty(0.7)
    adapt(in_loss, chosen.algorithm, batch, UpdateStats(sums={"kl": 0.46}), 2)
    assert in_loss.beta == pytest.approx(papers.controller(0.7, 0.23, 0.21))
    assert in_loss.beta > 0.7 > in_reward.beta
