"""What carries orders and reports: Ray, or a fake in tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rethink.distributed.protocol import Hello, Order, Report
from rethink.errors import EngineFailure

STORED = 4
"""Weights that a transport keeps: those stored last."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker has started."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker's report has arrived."""

    name: str
    report: Report


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has ended, or never started."""

    name: str
    cause: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Stacks:
    """What a worker's threads do, as it was asked."""

    name: str
    text: str | None
    """None: it did not answer."""


class WorkersRefused(EngineFailure):
    """Every worker would draw other completions than this process: starting them again changes nothing."""


class StoreFull(EngineFailure):
    """There is no room for the weights: starting Ray again changes nothing."""


Event = Joined | Reported | Lost | Stacks


class Transport(Protocol):
    """Starts workers and keeps as many as are wanted; carries messages. One thread uses it, but for `store`."""

    def receive(self, seconds: float) -> list[Event]:
        """What happened; waits at most so long for something to happen.

        Raises:
            EngineFailure: workers cannot be started.
        """
        ...

    @property
    def busy(self) -> set[str]:
        """Workers that take no order now."""
        ...

    def send(self, name: str, order: Order) -> None:
        """Give an order to a worker that is not busy; its report, or its loss, is an event to come."""
        ...

    def kill(self, name: str, why: str) -> None:
        """End a worker that was given up; another is started in its place."""
        ...

    def ask_stacks(self, name: str) -> None:
        """Ask a worker what its threads do; what it says, or that it does not answer, is an event to come."""
        ...

    @property
    def stores(self) -> int:
        """Grows when what was stored is lost."""
        ...

    def store(self, arrays: Any) -> Any:
        """Put weights where workers find them; returns what an order says of them."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
