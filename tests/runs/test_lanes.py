"""How a step is cut into lanes."""

from __future__ import annotations

import pytest

from rethink.runs.lanes import balanced, cut


def test_one_lane_holds_everything_in_its_order() -> None:
    assert cut([3, 9, 1], 1) == [[0, 1, 2]]
    assert cut([], 2) == []


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 9])
def test_every_place_is_in_one_lane_and_lanes_are_level(lanes: int) -> None:
    sizes = [7, 3, 3, 12, 1, 8, 5]
    found = cut(sizes, lanes)
    assert sorted(place for lane in found for place in lane) == list(range(len(sizes)))
    assert all(lane == sorted(lane) and lane for lane in found)
    assert len(found) == min(lanes, len(sizes))
    sums = [sum(sizes[place] for place in lane) for lane in found]
    assert max(sums) - min(sums) <= max(sizes)


def test_the_largest_go_first_and_the_first_of_equals() -> None:
    assert balanced([2, 5, 4, 5], 2) == [1, 0, 0, 1]
