"""Gradient lanes: the parts of a step whose gradients are added up one by one, in their order.

    step ─► lane 0 ─► gradient ─┐
        ├─► lane 1 ─► gradient ─┼─► ((0 + lane 0) + lane 1) + …  ─► update
        └─► lane 2 ─► gradient ─┘

The number of lanes belongs to the run: it decides which micro-batches there are and in which order sums are rounded.
Who computes a lane decides neither, so the same lanes give the same bits on any number of ranks (`ranks.py`).
"""

from __future__ import annotations

from collections.abc import Sequence


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
