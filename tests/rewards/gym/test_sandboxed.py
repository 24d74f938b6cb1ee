"""The library's scorers in the sandbox: what they can reach, what is left of a call, and what happens without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.cli.main import main
from rethink.errors import TaskError
from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.recipe.schema import TaskSource
from rethink.rewards import gym_reward
from rethink.rewards.code.verdict import run_script
from rethink.rewards.gym_reward import SandboxedGymJudge, ask
from rethink.rewards.outcome import PartFailed
from rethink.rewards.parts import build_part
from rethink.rewards.sandbox import isolation, warm_sandboxes
from rethink.rewards.sandbox.process import Limits, Sandbox
from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable
from rethink.tasks.gym.problems import GymSource
from rethink.types import Problem
from tests.rewards.sandbox_needed import needs_sandbox

LARGE = Limits(wall_seconds=20.0, memory_bytes=2 << 30)
PROBE = """
import os, socket, sys
def can(action):
    try:
        action()
    except Exception as error:
        return False
    return True
import reasoning_gym
assert reasoning_gym.create_dataset("rubiks_cube", seed=0)[0]
tried = {
    "host files": lambda: open(HERE).close(),
    "home": lambda: os.listdir(HOME),
    "socket": socket.socket,
    "process": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(os.getppid(), 0),
    "scratch": lambda: open("/scratch/x", "w").close(),
    "library": lambda: open(reasoning_gym.__file__, "a").close(),
    "scratch mode": lambda: os.chmod("/scratch", 0o777),
}
print([name for name, action in tried.items() if can(action)], os.getuid() == 0, sorted(os.listdir("/scratch")))
"""


@needs_sandbox
@pytest.mark.parametrize("as_root", [None, False])
def test_what_the_library_can_reach(as_root: bool | None) -> None:
    try:
        sandbox = Sandbox("required", "reasoning-gym", as_root=as_root)
    except SandboxUnavailable as error:
        if as_root is None:
            raise
        pytest.skip(f"no user namespaces here: {error.cause}")
    try:
        source = f"HERE, HOME = {__file__!r}, {str(warm_sandboxes.__file__)!r}\n{PROBE}"
        assert run_script(source, "", sandbox, LARGE) == ("[] False []\n", "")
    finally:
        sandbox.close()


@needs_sandbox
def test_nothing_of_a_call_is_left_for_the_next() -> None:
    sandbox = Sandbox("required", "reasoning-gym")
    patch = (
        "import reasoning_gym.factory as f\n"
        "for c, _ in f.DATASETS.values(): c.score_answer = lambda *a, **k: 1.0\n"
        "print(f.create_dataset('jugs', seed=0).score_answer('x', {}))"
    )
    try:
        assert run_script(patch, "", sandbox, LARGE) == ("1.0\n", "")
        again = "import reasoning_gym as r; d = r.create_dataset('jugs', seed=0); print(d.score_answer('x', d[0]))"
        assert run_script(again, "", sandbox, LARGE) == ("0.0\n", "")
    finally:
        sandbox.close()


@needs_sandbox
@pytest.mark.parametrize("task", ["rubiks_cube", "jugs", "propositional_logic"])
def test_right_and_wrong_answers(task: str) -> None:
    source = GymSource(task, TaskSource(kind="reasoning-gym", name=task), 0)
    problem = source.train_problem(0, 0, lambda key: True)
    judge = SandboxedGymJudge(task)
    assert problem.answer is not None
    assert judge(problem, problem.answer) == 1.0
    wrong = judge(problem, "no")
    assert wrong is not None
    assert wrong < 0.1
    # The row itself, as `rethink score` finds it in a file.
    entry = json.loads(json.dumps(source._entry(0, problem.metadata["index"])))
    assert judge.judge_entry(task, {}, problem.answer, entry) == 1.0


@needs_sandbox
def test_a_scorer_that_fails_on_an_answer_says_wrong_and_one_that_always_fails_is_a_failure() -> None:
    judge = SandboxedGymJudge("boxnet")
    source = GymSource("boxnet", TaskSource(kind="reasoning-gym", name="boxnet"), 0)
    problem = source.train_problem(0, 0, lambda key: True)
    assert judge(problem, "1e999999999") == 0.0
    with pytest.raises(PartFailed, match="KeyError"):
        judge.judge_entry("tower_of_hanoi", {}, "x", {"question": "?", "answer": "y", "metadata": {}})
    judge = SandboxedGymJudge("jugs")
    with pytest.raises(PartFailed, match="cannot be made again"):
        judge(Problem("p", "t", "?", None, {"task": "jugs", "index": 0, "params": {"difficulty": "x", "y": 1}}), "[]")
    with pytest.raises(TaskError, match="makes another problem"):
        judge(Problem("p", "t", "?", None, {"task": "jugs", "index": 0, "params": {}}), "[]")


@needs_sandbox
def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym_reward, "LIMITS", Limits(cpu_seconds=1.0, wall_seconds=0.005, memory_bytes=2 << 30))
    slow = {"min_w": 12, "max_w": 12, "min_h": 12, "max_h": 12}

    def make_many() -> None:
        for index in range(40):
            ask("entry", {"task": "sokoban", "params": slow, "index": index})

    with pytest.raises(PartFailed) as caught:
        make_many()
    assert caught.value.cause == "timeout"


def without_bubblewrap() -> str:
    raise SandboxUnavailable("bubblewrap (`bwrap`) is not installed")


@pytest.mark.parametrize("part", ["accuracy", "gym", "cosine"])
def test_without_a_sandbox_tasks_that_need_one_are_refused(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warm_sandboxes.close_all()
    monkeypatch.setattr(isolation, "find_bubblewrap", without_bubblewrap)

    def build(task: str) -> Any:
        params = {"task": task} if part == "gym" else {}
        spec = {"name": part, "weight": 1.0, "builtin": part, "function": None, "params": params}
        judges = {"t": {"kind": "reasoning-gym", "task": task}}
        return build_part({"answer": "answer-tag", "judges": judges, "parts": [spec]}, 0)

    with pytest.raises(SandboxUnavailable, match=r"the scorer of the task `jugs`.* cannot be run safely here") as found:
        build("jugs")
    assert "is not installed" in str(found.value)
    assert "unsafe-none" not in str(found.value)
    for task in ("chain_sum", "countdown"):  # these need none
        assert build(task).where("t") == "worker"


def test_without_a_sandbox_an_evaluation_is_refused_before_it_generates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    warm_sandboxes.close_all()
    monkeypatch.setattr(isolation, "find_bubblewrap", without_bubblewrap)
    code = main(["eval", "--model", "embedded", "--bench", "jugs", "--out", str(tmp_path / "out")])
    assert code == 2
    assert "the scorer of the task `jugs`" in capsys.readouterr().err
    check = find_benchmark("countdown").grader.check
    assert check is not None
    check()


@needs_sandbox
def test_a_row_that_names_another_task_does_not_reach_its_scorer() -> None:
    """countdown's own scorer would evaluate the answer, within the walls, and could be made to say 1."""
    judge = SandboxedGymJudge("jugs")
    problem = Problem("p", "t", "?", "5", {"task": "countdown", "index": 0, "params": {}})
    with pytest.raises(PartFailed, match="one of `countdown`, and `jugs` is judged here"):
        judge(problem, "exec('')")
