"""What a judge of answers is: a function of a problem and an answer, described by plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rethink.types import Problem

JudgeSpec = Mapping[str, Any]
"""A judge as plain values: see `rethink.tasks.judging`."""


class Judge:
    """Scores an answer to a problem: 0 to 1, or None where it cannot judge. May raise."""

    def __init__(self, score: Callable[[Problem, str], float | None], warm: Callable[[], object] = lambda: None):
        self._score = score
        self.warm = warm
        """Loads what the first call would load."""

    def __call__(self, problem: Problem, answer: str) -> float | None:
        """The score."""
        return self._score(problem, answer)
