"""Whose fault a failed reward is: an answer that exhausts a judge of ours is wrong; all else stays a failure."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from rethink.rewards import gym_reward
from rethink.rewards.blame import exhausted, judge_is_ours
from rethink.rewards.outcome import CRASH, TIMEOUT, PartFailed
from rethink.rewards.reward_pool import RewardPool
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure
from rethink.types import RewardOutcome
from tests.rewards.conftest import PROBLEM, item
from tests.rewards.test_reward_pool import score

BOMBS = """
import ctypes, os, time
import rethink.rewards.math_reward as mathematics
right = mathematics.math_equal
def judged(answer, gold):
    for text in (answer, gold):
        if "compute" in text:
            while True: pass
        if "wait" in text: time.sleep(1000)
        if "memory" in text: bytearray(1 << 40)
        if "segfault" in text: ctypes.string_at(0)
        if "deep" in text: return judged(answer, gold)
        if "mistake" in text: raise ValueError("no")
    return right(answer, gold)
mathematics.math_equal = judged
"""
"""Stands in for answers that exhaust the judge: those that are known, it refuses."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardPool]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(BOMBS)
    wrong = {"max_len": 10, "min_value_wrong": -4.0, "max_value_wrong": -2.0}
    parts: list[dict[str, Any]] = [
        {"name": "math", "weight": 1, "builtin": None, "function": None, "params": {"answer": "text"}},
        {"name": "cosine", "weight": 1, "builtin": None, "function": None, "params": wrong},
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        pool = RewardPool({"answer": "text", "judges": {}, "parts": parts}, [0, 1], seconds=1.0)
    yield pool
    pool.close()


def test_an_answer_that_exhausts_the_judge_is_wrong(pool: RewardPool) -> None:
    texts = ["5", "compute", "memory", "segfault", "deep", "6"]
    assert score(pool, texts) == [RewardOutcome(value) for value in (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)]
    # A part whose wrong answers are worth something else says that.
    (outcome,) = pool.submit(1, [item("\\boxed{memory}")]).result(timeout=60)
    assert outcome.failure is None
    assert -4.0 <= (outcome.score or 0) <= -2.0


def test_what_is_not_the_answers_fault_stays_a_failure(pool: RewardPool) -> None:
    assert str(score(pool, ["wait"])[0].failure).startswith("timeout")  # a judge of ours never waits: the machine did
    assert str(score(pool, ["mistake"])[0].failure).startswith("exception: ValueError")
    for gold, cause in (("memory", "out of memory"), ("segfault", "crash")):
        (outcome,) = pool.submit(0, [item("5", replace(PROBLEM, answer=gold))]).result(timeout=60)
        assert str(outcome.failure).startswith(cause)


def test_a_worker_that_somebody_kills_says_nothing_of_the_answer(pool: RewardPool) -> None:
    score(pool, ["5"])
    waiting = pool.submit(0, [item("wait")])
    while not any(worker.begun and worker.job for worker in list(pool._workers.values())):
        pass
    for worker in list(pool._workers.values()):
        if worker.job is not None and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)
    assert str(waiting.result(timeout=60)[0].failure).startswith("crash: the worker was killed by SIGKILL")


def test_a_function_of_the_users_that_hangs_fails(pool_of: Callable[..., RewardPool]) -> None:
    pool = pool_of("while text == 'hang': pass\nreturn 1", seconds=1.0)
    first, second = score(pool, ["hang", "fine"])
    assert str(first.failure).startswith("timeout")
    assert second.score == 1.0


def test_whose_judge_it_is() -> None:
    def part(**values: Any) -> dict[str, Any]:
        return {"name": "p", "builtin": None, "function": None, **values}

    parts = [part(name="math"), part(name="accuracy"), part(builtin="cosine"), part(function="m:f")]
    rubric = {"parts": parts, "judges": {"own": {"kind": "python"}, "ours": {"kind": "math-verify"}}}
    assert [judge_is_ours(rubric, index, "ours") for index in range(4)] == [True, True, True, False]
    assert [judge_is_ours(rubric, index, "own") for index in range(4)] == [True, False, False, False]
    assert not exhausted(RewardOutcome(0.0))
    assert not exhausted(RewardOutcome(None, "invalid: not finite"))


def test_a_sandboxed_scorer_is_asked_about_the_gold_too(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = object.__new__(gym_reward.SandboxedGymJudge)
    entry = {"question": "?", "answer": "gold", "metadata": {}}
    bad: dict[str, Exception] = {"bomb": PartFailed(TIMEOUT, "longer")}

    def ask(role: str, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["said"] in bad:
            raise bad[payload["said"]]
        return {"score": 1.0}

    monkeypatch.setattr(gym_reward, "ask", ask)
    assert judge.judge_entry("t", {}, "gold", entry) == 1.0
    assert judge.judge_entry("t", {}, "bomb", entry) == 0.0
    bad["gold"] = PartFailed(TIMEOUT, "longer")
    with pytest.raises(PartFailed, match="longer"):
        judge.judge_entry("t", {}, "bomb", entry)
    del bad["gold"]
    bad["bomb"] = PartFailed(CRASH, "the sandbox broke")
    bad["bomb"].__cause__ = SandboxFailure("gone")
    with pytest.raises(PartFailed, match="sandbox broke"):
        judge.judge_entry("t", {}, "bomb", entry)
