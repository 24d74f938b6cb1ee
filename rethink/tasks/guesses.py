"""Answers that need no thought, and how often they are right: what `rethink check` and `rethink eval` warn of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rethink.tasks.answers import last_number
from rethink.types import Problem

FEW = 8
"""Problems below which nothing is concluded."""
GUESSED = 0.7
"""Share of problems that a guess gets right above which answers say nothing about thinking."""


def commonest(answers: Iterable[str | None]) -> tuple[str | None, int]:
    """The most frequent answer and how often it occurs; None and 0 where there is none."""
    counted = Counter(answer for answer in answers if answer is not None).most_common(1)
    return counted[0] if counted else (None, 0)


def guess_warning(problems: Sequence[Problem]) -> str | None:
    """What is wrong where a guess gets most gold answers right; None where none does.

    Such golds are not the whole criterion: the game of 24 has the gold 24 in every row, and who says 24 has solved
    none.
    """
    known = [problem for problem in problems if problem.answer is not None]
    if len(known) < FEW:
        return None
    answer, times = commonest(problem.answer for problem in known)
    guesses = [(times, f"the answer {str(answer)[:40]!r}, always,")]
    last = sum(last_number(problem.question) == str(problem.answer).strip() for problem in known)
    guesses.append((last, "the last number of the question"))
    right, guess = max(guesses)
    if right <= GUESSED * len(known):
        return None
    return (
        f"{guess} is the gold answer of {right} of {len(known)} problems, so being right takes no thought. If the gold "
        "is not the whole criterion (a program to run, a formula to check), this grader does not judge the task: take "
        "a benchmark or a task of reasoning-gym with its own checker, or a custom reward function"
    )
