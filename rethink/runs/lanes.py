"""Gradient lanes: the parts of a step whose gradients are added up one by one, in their order.

    step ─► lane 0 ─► gradient ─┐
        ├─► lane 1 ─► gradient ─┼─► ((0 + lane 0) + lane 1) + …  ─► update
        └─► lane 2 ─► gradient ─┘

The number of lanes belongs to the run: it decides which micro-batches there are and in which order sums are rounded.
Who computes a lane decides neither, so the same lanes give the same bits on any number of ranks (`ranks.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:  # the GPU check runs where nothing reads recipes
    from rethink.machine.placement import Placement
    from rethink.model.loading import Checkpoint

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
L = TypeVar("L")
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Lanes(Generic[L, S]):
    """How trainer ranks share the steps of a kind of run: what its record names as `lanes`."""

    build: Callable[[Any, Checkpoint, Placement], Any]
    """(recipe, checkpoint, placement) -> the model, as the run itself builds it."""
    compute: Callable[[Any, Any, Any, L, int, int], S]
    """(recipe, model, reference, lane, 0-based step, micro-batch limit) -> statistics: forward and backward of a lane.
    Gradients go where the parameters' hooks put them."""
    pack: Callable[[L], Arrays]
    """A lane as arrays: what `compute` reads of it."""
    unpack: Callable[[Arrays], L]
    """Inverse of `pack`."""
    statistics: type[S]
    """A dataclass of numbers, and of lists and dicts of them."""
    pieces: Callable[[L, int], list[int]] | None = None
    """(lane, micro-batch limit) -> the sequences with targets of each micro-batch that `compute` makes, so that ranks
    that shard weights can make equally many passes; None: ranks cannot shard the weights of this kind's model."""


def cut(sizes: Sequence[int], lanes: int) -> list[list[int]]:
    """Places of what each lane holds, ascending: the largest first, each to the lane that has the least so far.

    Lanes that would be empty are left out. One lane holds everything in its order.
    """
    found: list[list[int]] = [[] for _ in range(lanes)]
    for place, lane in enumerate(balanced(sizes, lanes)):
        found[lane].append(place)
    return [places for places in found if places]


def balanced(sizes: Sequence[int], bins: int) -> list[int]:
    """The bin of each: the largest first (of equal ones the first), each into the first of the least filled bins."""
    filled, found = [0] * bins, [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        least = filled.index(min(filled))
        found[place] = least
        filled[least] += sizes[place]
    return found


def within(items: Iterable[T], size: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Items, in order, in micro-batches of at most `limit` tokens; an item that is larger has one of its own."""
    part: list[T] = []
    room = limit
    for item in items:
        taken = size(item)
        if part and taken > room:
            yield part
            part, room = [], limit
        part.append(item)
        room -= taken
    if part:
        yield part


def ragged(name: str, rows: Sequence[Any], dtype: Any = None) -> dict[str, np.ndarray[Any, Any]]:
    """Rows of unequal length as arrays: the values of all, one row after the other, and the lengths.

    Args:
        name: of the values.
        rows: at least one.
        dtype: of the values; None: that of the rows.
    """
    values = [np.asarray(row, dtype) for row in rows]
    return {name: np.concatenate(values), f"{name} of each": np.array([len(row) for row in values], np.int64)}


def rows_of(arrays: Arrays, name: str) -> list[np.ndarray[Any, Any]]:
    """Inverse of `ragged`."""
    return np.split(arrays[name], np.cumsum(arrays[f"{name} of each"])[:-1])
