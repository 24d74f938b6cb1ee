"""What a judge of answers is: a function of a problem and an answer, described by plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rethink.types import Problem

JudgeSpec = Mapping[str, Any]
"""A judge as plain values: see `rethink.tasks.judging`."""


class Judge:
    """Scores an answer to a problem: 0 to 1, or None where it cannot judge. May raise."""

    def __init__(
        self,
        score: Callable[[Problem, str], float | None],
        warm: Callable[[], object] = lambda: None,
        *,
        only_compares: bool = False,
    ):
        self._score = score
        self.warm = warm
        """Loads what the first call would load."""
        self.only_compares = only_compares
        """Whether it only compares with the gold answer, with our code: a failure is then the answer's, which is
        wrong."""

    def without_answer(self, problem: Problem) -> float | None:
        """What a completion without an answer gets: 0, or None where no completion is judged."""
        if self.only_compares:
            return self(problem, "")
        return None if problem.answer is None and self(problem, "0") is None else 0.0

    def __call__(self, problem: Problem, answer: str) -> float | None:
        """The score."""
        return self._score(problem, answer)
