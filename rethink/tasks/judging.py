"""What judges the answers of a task, as plain values: so that a process without the task's problems can judge them.

A judge is `{"kind": "exact-number"}`, `{"kind": "math-verify"}`, `{"kind": "reasoning-gym"}` (the problem's metadata
says which task and entry), or `{"kind": "python", "function": …, "params": …}` (a function of the user's that brings
its own scorer).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from rethink.errors import TaskError
from rethink.tasks.checkers import Checker, exact_number
from rethink.tasks.mathematics import math_equal
from rethink.types import Problem

JudgeSpec = Mapping[str, Any]
REMEMBERED = 256
"""Entries of reasoning-gym that are kept: the completions of one problem come close together."""


class Judge:
    """Scores an answer to a problem: 0 to 1, or None where it cannot judge. May raise."""

    def __init__(self, score: Callable[[Problem, str], float | None], warm: Callable[[], object] = lambda: None):
        self._score = score
        self.warm = warm
        """Loads what the first call would load."""

    def __call__(self, problem: Problem, answer: str) -> float | None:
        """The score."""
        return self._score(problem, answer)


def cannot_hang(spec: JudgeSpec) -> bool:
    """Whether judging is linear in the answer and runs nobody's code but ours."""
    return bool(spec["kind"] == "exact-number")


def make_judge(spec: JudgeSpec) -> Judge:
    """The judge that a spec describes.

    Raises:
        TaskError: a function of the user's cannot be loaded.
    """
    kind = spec["kind"]
    if kind == "exact-number":
        return _against_gold(exact_number)
    if kind == "math-verify":
        return _against_gold(math_equal, lambda: math_equal("x+1", "1+x"))
    if kind == "reasoning-gym":
        return GymJudge()
    return Judge(_own_scorer(spec["function"], spec["params"]))


def _against_gold(checker: Checker, warm: Callable[[], object] = lambda: None) -> Judge:
    return Judge(lambda problem, answer: checker(answer, problem.answer), warm)


class GymJudge(Judge):
    """The scorer of a reasoning-gym task; entries are made again from the problem's metadata."""

    def __init__(self) -> None:
        super().__init__(self._judge, self._load)
        self._datasets: dict[str, Any] = {}
        self._entries: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def _judge(self, problem: Problem, answer: str) -> float | None:
        import json

        from rethink.tasks.gym import make_dataset

        task, params, index = (problem.metadata[key] for key in ("task", "params", "index"))
        key = json.dumps([task, params], sort_keys=True)
        if key not in self._datasets:
            self._datasets[key] = make_dataset(task, params)
        place = (key, index)
        if place not in self._entries:
            self._entries[place] = self._datasets[key][index]
            if len(self._entries) > REMEMBERED:
                self._entries.popitem(last=False)
        entry = self._entries[place]
        same = str(entry["question"]) == problem.question
        if not same or (entry["answer"] is not None and str(entry["answer"]) != problem.answer):
            raise TaskError(
                f"`{task}` makes another problem {index} in each process, so its answers cannot be "
                "judged: take another task, or try PYTHONHASHSEED=0"
            )
        return float(self._datasets[key].score_answer(answer, entry))

    def _load(self) -> None:
        import reasoning_gym  # noqa: F401
        from reasoning_gym.factory import DATASETS  # noqa: F401


def _own_scorer(reference: str, params: Mapping[str, Any]) -> Callable[[Problem, str], float | None]:
    from rethink.tasks.plugins import load_function

    made = load_function(reference, "tasks.name", TaskError)(**params)
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[1])):
        raise TaskError(f"{reference} no longer returns (rows, score)")
    score: Callable[[Problem, str], float | None] = made[1]
    return score
