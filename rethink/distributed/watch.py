"""What workers do, as the driver sees it: for the live view, the metrics and the run's record. No clock of its own."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rethink.distributed.pool import Pool


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker at a moment."""

    name: str
    host: str
    held: int
    """Samples that it has to draw."""
    done: int
    """Samples that arrived from it."""
    tokens_per_s: float | None
    """Since the last look of this kind; None: it had nothing to draw."""
    late: float | None
    """Seconds since it was heard, where that is too long."""


def _nothing(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Onlooker:
    """Whoever is told what becomes of workers."""

    note: Callable[[str], None]
    """What a user should know."""
    show: Callable[[Sequence[Seen]], None] = _nothing
    """All workers, about once a second."""
    record: Callable[[Mapping[str, Any]], None] = _nothing
    """What was lost, and why: for the run's folder."""


def place_of(stacks: str) -> str:
    """Where the thread that samples is, from a dump of `faulthandler`."""
    for thread in stacks.split("\n\n"):
        calls = re.findall(r'File "([^"]*)", line (\d+) in (\S+)', thread)
        if any(path.endswith("rollout_worker.py") and name == "_run" for path, _, name in calls):
            path, line, name = calls[0]
            return f"in `{name}` ({path.rpartition('/')[2]}, line {line})"
    return "in no known place"


class Watch:
    """Adds up what workers do, from looks at the pool."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._tokens: dict[str, int] = {}
        """Drawn by each until the last look."""
        self._busy: Counter[str] = Counter()
        """Seconds with samples since the last `metrics`; `idle`: without."""
        self._idle: Counter[str] = Counter()
        self._drawn: Counter[str] = Counter()
        self._queue = 0
        self._shown: dict[str, tuple[float, int]] = {}
        """(when, tokens) of each at the last `seen`."""

    def look(self, pool: Pool, now: float) -> None:
        """Take in the state of a moment."""
        passed = 0.0 if self._last is None else now - self._last
        self._last = now
        self._queue = max(self._queue, pool.unstarted)
        for name, worker in pool.workers.items():
            seconds = self._busy if worker.assigned else self._idle
            seconds[name] += passed  # type: ignore[assignment]
            self._drawn[name] += worker.tokens - self._tokens.get(name, 0)
            self._tokens[name] = worker.tokens

    def metrics(self) -> dict[str, float]:
        """Of the time since the last call."""
        busy, idle = sum(self._busy.values()), sum(self._idle.values())
        rates = [self._drawn[name] / seconds for name, seconds in self._busy.items() if seconds > 0]
        found: dict[str, float] = {"cluster/queue": self._queue}
        if busy + idle > 0:
            found["cluster/idle"] = idle / (busy + idle)
        if rates:
            found["cluster/tokens_per_s_min"] = min(rates)
            found["cluster/tokens_per_s_median"] = statistics.median(rates)
        self._busy, self._idle, self._drawn, self._queue = Counter(), Counter(), Counter(), 0
        return found

    def seen(self, pool: Pool, now: float) -> list[Seen]:
        """Every worker, for the view."""
        found = []
        for name, worker in sorted(pool.workers.items()):
            since, tokens = self._shown.get(name, (now, worker.tokens))
            self._shown[name] = now, worker.tokens
            rate = (worker.tokens - tokens) / (now - since) if now > since and worker.tokens > tokens else None
            silent = now - worker.heard
            late = silent if worker.assigned and silent > pool.timing.late else None
            host = worker.hello.facts.get("host", "")
            found.append(Seen(name, host, len(worker.assigned), worker.done, rate, late))
        return found
