"""What every source of problems is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from rethink.tasks.judge import JudgeSpec
from rethink.types import Problem

KeepsKey = Callable[[int], bool]
"""Whether a question with this `split_key` may be used."""


class Source(Protocol):
    """Problems of one `tasks` entry, and its checker."""

    name: str
    """Unique within the run; `Problem.task`."""
    separate: bool
    """Whether held-out problems come from a file or split of their own."""

    judge: JudgeSpec
    """What judges its answers, as plain values."""

    def separate_keys(self) -> tuple[set[int], set[int]]:
        """Split keys of the training and of the held-out file, where `separate`."""
        ...

    def train_problem(self, count: int, step: int, keeps: KeepsKey) -> Problem:
        """The `count`-th problem that the run draws from this source, as it is at `step`.

        Raises:
            TaskError: no question that `keeps` allows was found.
        """
        ...

    def held_out(self, keeps: KeepsKey) -> Iterator[Problem]:
        """Held-out problems in a fixed order that does not depend on the run's seed; may be endless."""
        ...

    def gold_score(self, problem: Problem) -> float | None:
        """What the checker says of the problem's own gold answer; None where it cannot judge. May raise.

        No text that a model wrote comes here: answers are judged where rewards are computed.
        """
        ...

    def reads_gold(self, problem: Problem) -> bool:
        """Whether the checker can judge answers to this problem at all. May raise."""
        ...
