"""Time in which this process ran: what it was stopped for (Ctrl-Z, SIGSTOP, a debugger) is nobody's silence."""

from __future__ import annotations

import time

MOST = 2.0
"""Seconds between two looks at the clock that count; a longer gap counts as so many."""


class RunningClock:
    """Seconds since it was made. One thread uses it, and looks often."""

    def __init__(self) -> None:
        self._last, self._now = time.monotonic(), 0.0
        self.left_out = 0.0
        """Seconds that were not counted so far."""

    def now(self) -> float:
        """Seconds that count."""
        passed = time.monotonic() - self._last
        self._last += passed
        self._now += min(passed, MOST)
        self.left_out += max(passed - MOST, 0.0)
        return self._now
