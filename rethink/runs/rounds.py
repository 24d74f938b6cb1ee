"""A step's lanes, computed in rounds: by this process alone, or by all ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import Arrays

L = TypeVar("L")
S = TypeVar("S")
Given = TypeVar("Given", contravariant=True)
Said = TypeVar("Said", covariant=True)


class Wire(Protocol[Given, Said]):
    """How a kind's lanes and their statistics go from one process to another."""

    def pack(self, lane: Given) -> Arrays:
        """A lane as arrays."""
        ...

    def read(self, facts: Mapping[str, Any]) -> Said:
        """Statistics from what `facts` made of them."""
        ...


def train_lanes(optimizer: MasterAdamW, lanes: Sequence[L], compute: Callable[[L], S], wire: Wire[L, S]) -> list[S]:
    """The gradients of a step's lanes, added up in their order. Returns the statistics of each.

    In rounds: each rank computes one lane, then all exchange. Without other ranks, a round is a lane.

    Args:
        optimizer: of the first rank; it holds the sum afterwards.
        lanes: of the step.
        compute: forward and backward of one lane.
        wire: takes a lane to another rank.

    Raises:
        RunFailure: as `compute`, here or elsewhere; or a rank was lost.
    """
    ranks, found = optimizer.ranks, []
    each = [[wire.pack(lane) for lane in lanes[rank :: ranks.size]] for rank in range(1, ranks.size)]
    ranks.order("lanes", each, number=len(lanes))
    for first in range(0, len(lanes), ranks.size):
        there = min(ranks.size, len(lanes) - first)
        found.append(compute(lanes[first]))
        found += [wire.read(facts) for facts in ranks.reports(there)]
        optimizer.add_round(there)
    return found
