"""Whose fault a failed reward is: the answer's, or our own.

A built-in checker is bounded in time and memory. If it exceeds them, or dies, on an answer but not without one, the
answer has done it, and is wrong: whether an answer is judged must not depend on the answer. A function of the user's
may be at fault itself, so what it does stays a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rethink.rewards.outcome import CRASH, EXCEPTION, OUT_OF_MEMORY, TIMEOUT
from rethink.rewards.parts import Item
from rethink.types import RewardOutcome

LEAST_COMPUTED = 0.1
"""Share of its time that a built-in checker must have computed for a timeout to be the answer's: it never waits, so one
that has computed less was held up by the machine."""
_EXHAUSTED = (TIMEOUT, CRASH, OUT_OF_MEMORY, f"{EXCEPTION}: RecursionError")


def judge_is_ours(rubric: Mapping[str, Any], part: int, task: str) -> bool:
    """Whether a part scores a task's answers without any function of the user's."""
    spec = rubric["parts"][part]
    judge = rubric["judges"].get(task)
    asks_judge = (spec["builtin"] or spec["name"]) in ("accuracy", "cosine")
    return not spec["function"] and not (asks_judge and judge is not None and judge["kind"] == "python")


def exhausted(outcome: RewardOutcome) -> bool:
    """Whether an outcome says that the judge ran out of something or died."""
    return outcome.failure is not None and outcome.failure.startswith(_EXHAUSTED)


def without_answer(item: Item) -> Item:
    """The item with an empty completion of the same length: its result is that of a wrong answer."""
    problem, prompt, completion = item
    return problem, prompt, replace(completion, text="")
