"""What becomes of the other ranks, as the first one is told while it computes or waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rethink.errors import RankLost, RethinkError, UsageError


@dataclass(frozen=True, slots=True)
class End:
    """How a rank ended, or why it was given up."""

    cause: str
    """What follows its name in a sentence."""
    primary: bool = True
    """Whether of itself, not since another one had ended."""
    refused: bool = False
    """Whether it would end so each time."""


class RankWatch:
    """Keeps who is ready and who ended.

    Args:
        ranks: all but the first.
        cause_seconds: how long the cause of a broken connection is looked for.
    """

    def __init__(self, ranks: Collection[int], cause_seconds: float):
        self.ranks = ranks
        self.ready: set[int] = set()
        self.ends: dict[int, End] = {}
        """The first one told is the first entry."""
        self._cause_seconds = cause_seconds
        self._changed = threading.Condition()
        self._sever: Callable[[], None] = lambda: None

    def wait_ready(self, seconds: float) -> None:
        """Until every model is loaded.

        Raises:
            RankLost: one ended first, or takes longer.
            UsageError: one cannot serve this run.
        """
        with self._changed:
            there = self._changed.wait_for(lambda: len(self.ready) == len(self.ranks) or self.ends, seconds)
            late = [rank for rank in self.ranks if rank not in self.ready]
        if self.ends:
            raise self.lost(-1, "its start")
        if not there:
            raise RankLost(
                f"trainer rank {late[0]} has not loaded the model within {seconds:.0f} s (`start_seconds` of the "
                "cluster file)"
            )

    def lost(self, rank: int, what: str) -> RethinkError:
        """The error of a wait that broke: which rank is the cause, as far as that shows soon."""
        with self._changed:
            self._changed.wait_for(lambda: any(end.primary for end in self.ends.values()), self._cause_seconds)
            ends = sorted(self.ends.items(), key=lambda entry: not entry[1].primary)
        if not ends:
            return RankLost(f"the connection to trainer rank {rank} broke while rank 0 waited for {what}")
        first, end = ends[0]
        if end.refused:
            return UsageError(f"trainer rank {first} {end.cause}")
        return RankLost(f"trainer rank {first} {end.cause}, while rank 0 waited for {what}")

    def severed_by(self, sever: Callable[[], None]) -> None:
        """What breaks every wait of this process for another rank, from now on."""
        with self._changed:
            self._sever = sever
        if any(end.primary for end in self.ends.values()):
            sever()

    def close(self) -> None:
        """End all ranks."""
        raise NotImplementedError

    def _is_ready(self, rank: int) -> None:
        with self._changed:
            self.ready.add(rank)
            self._changed.notify_all()

    def _ended(self, rank: int, end: End) -> None:
        with self._changed:
            self.ends.setdefault(rank, end)
            self._changed.notify_all()
