"""What judges the answers of a task, as plain values: so that a process without the task's problems can judge them.

A judge is `{"kind": "exact-number"}`, `{"kind": "math-verify"}`, `{"kind": "reasoning-gym", "task": …}` (the problem's
metadata says which entry), or `{"kind": "python", "function": …, "params": …}` (a function of the user's that brings
its own scorer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rethink.errors import TaskError
from rethink.tasks.checkers import Checker, exact_number
from rethink.tasks.gym.checking import GymJudge
from rethink.tasks.judge import Judge, JudgeSpec
from rethink.tasks.mathematics import math_equal
from rethink.types import Problem


def cannot_hang(spec: JudgeSpec) -> bool:
    """Whether judging is linear in the answer and runs nobody's code but ours."""
    return bool(spec["kind"] == "exact-number")


def make_judge(spec: JudgeSpec) -> Judge:
    """The judge that a spec describes. Tasks whose scorer needs the sandbox: `rethink.rewards.judges`.

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
    return Judge(lambda problem, answer: checker(answer, problem.answer), warm, only_compares=True)


def _own_scorer(reference: str, params: Mapping[str, Any]) -> Callable[[Problem, str], float | None]:
    from rethink.tasks.plugins import load_function

    made = load_function(reference, "tasks.name", TaskError)(**params)
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[1])):
        raise TaskError(f"{reference} no longer returns (rows, score)")
    score: Callable[[Problem, str], float | None] = made[1]
    return score
