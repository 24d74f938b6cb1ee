"""A run's numbers as people read them: shares, durations, and the time that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def number(row: Mapping[str, Any], name: str) -> float | None:
    """The metric as a float, or None when the row lacks it or it is no number."""
    value = row.get(name)
    if value is None or isinstance(value, str):
        return None
    with suppress(TypeError, ValueError):
        return float(value)
    return None


def percent(value: float) -> str:
    """A share as text: 0.453 is `45.3 %`."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    """Seconds as text of two units at most: `8.9 s`, `7 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds):
        return "?"
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


class TimeLeft:
    """Estimates the time that remains from the recent steps' own times, so that a resumed run is not fooled."""

    def __init__(self, window: int = 10) -> None:
        self._window = window
        self._times: list[float] = []
        self.total = 0
        self.done = 0

    def start(self, total_steps: int, done_steps: int) -> None:
        """Begin counting."""
        self.total, self.done = total_steps, done_steps

    def step(self, row: Mapping[str, Any]) -> None:
        """Take the step's number and time."""
        self.done = int(row.get("step", self.done + 1))
        seconds = number(row, "time/step")
        if seconds is not None:
            self._times = [*self._times, seconds][-self._window :]

    def seconds(self) -> float | None:
        """Seconds left; None before the first step."""
        if not self._times:
            return None
        return max(0, self.total - self.done) * sum(self._times) / len(self._times)
