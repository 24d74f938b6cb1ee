"""Which of reasoning-gym's scorers may judge in a plain process: those that were read, as they were read."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import inspect
import textwrap
from pathlib import Path

import pytest
import reasoning_gym
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

from rethink.errors import TaskError
from rethink.tasks.gym import scorers
from rethink.tasks.gym.checking import GymJudge
from rethink.tasks.gym.library import REFUSED, make_dataset
from rethink.tasks.gym.ours import OURS
from rethink.tasks.gym.scorers import DEFAULT, NUMERIC, OWN, VERSION, plain_numbers, who_judges
from rethink.types import Problem

READ = "d9c7931c5b3758a9"
"""Of the sources that were read: a task's module, and what the scorers share."""
SHARED = ("dataset.py", "utils.py", "arc/board_format.py")
COMPARES = sorted(DEFAULT | OWN)


def test_every_task_has_one_judge() -> None:
    assert DEFAULT.isdisjoint(OWN)
    assert (DEFAULT | OWN).isdisjoint(OURS)
    assert set(DATASETS) >= DEFAULT | OWN | set(OURS) | set(REFUSED)
    assert NUMERIC <= OWN
    assert {who_judges(task) for task in COMPARES} == {"compares"}


def test_the_scorers_that_were_read_are_the_ones_installed() -> None:
    """When this fails: read the scorers again, line by line, and only then write down what was read."""
    assert importlib.metadata.version("reasoning-gym") == VERSION
    root = Path(reasoning_gym.__file__).parent
    files = {inspect.getfile(DATASETS[task][0]) for task in COMPARES} | {str(root / name) for name in SHARED}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    assert digest.hexdigest()[:16] == READ


@pytest.mark.parametrize("task", COMPARES)
def test_they_call_nothing_that_evaluates(task: str) -> None:
    kind = DATASETS[task][0]
    assert (kind.score_answer is ProceduralDataset.score_answer) == (task in DEFAULT)
    waiting, seen = [kind.score_answer], set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name not in ("eval", "exec", "compile", "parse_expr", "sympify", "system", "loads", "open"), task
            called = getattr(kind, name, None) if isinstance(node.func, ast.Attribute) else None
            called = called or inspect.getmodule(function).__dict__.get(name)  # type: ignore[union-attr]
            if inspect.isfunction(called) and called not in seen:
                waiting.append(called)


def test_another_version_is_judged_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_installed", lambda: "0.1.26")
    assert {who_judges(task) for task in COMPARES} == {"sandbox"}
    assert {who_judges(task) for task in OURS} == {"ours"}
    problem = Problem("p", "t", "?", "5", {"task": "chain_sum", "index": 0, "params": {}})
    with pytest.raises(TaskError, match="`chain_sum` runs in the sandbox alone"):
        GymJudge()(problem, "5")


@pytest.mark.parametrize("task", ["rubiks_cube", "propositional_logic", "a_task_to_come"])
def test_a_plain_judge_refuses_what_needs_the_sandbox(task: str) -> None:
    """Also where a row of a file names the task."""
    problem = Problem("p", "t", "?", None, {"task": task, "index": 0, "params": {}})
    with pytest.raises(TaskError, match="runs in the sandbox alone"):
        GymJudge()(problem, "R")


@pytest.mark.parametrize("task", sorted(REFUSED))
def test_tasks_that_are_not_taken(task: str) -> None:
    with pytest.raises(TaskError, match=f"`{task}` of reasoning-gym is refused"):
        make_dataset(task, {})


@pytest.mark.parametrize("text", ["12", "-3.5", "1,234", "2 × 3 × 5", "45.5°", "3 days, 12:05", "1e-5", "abc"])
def test_texts_that_may_be_read_as_numbers(text: str) -> None:
    assert plain_numbers(text)


@pytest.mark.parametrize("text", ["nan", "NaN", "-inf", "Infinity", "1_000", "9" * 61, "1e999", "1E+1000", "٣", "５"])
def test_texts_that_python_reads_as_numbers_and_we_do_not(text: str) -> None:
    assert not plain_numbers(text)
    entry = {"question": "?", "answer": "5", "metadata": {"solution": 5}}
    assert GymJudge().judge_entry("number_format", {}, text, entry) == 0
    assert GymJudge().judge_entry("number_format", {}, "5", entry) == 1
