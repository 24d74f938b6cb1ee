"""Schedules of faults, each from one integer; see `simulation.py`."""

from __future__ import annotations

import pytest

from tests.distributed.simulation import run


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_schedules_end_in_the_weights_of_one_process(first: int) -> None:
    for seed in range(first, first + 20):
        assert run(seed).ended(), seed


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(100, 10_000, 900))
def test_many_schedules_end_in_the_weights_of_one_process(first: int) -> None:
    for seed in range(first, first + 900):
        assert run(seed).ended(), seed


def test_the_schedules_are_hard() -> None:
    """Workers are lost, samples are asked again and moved: else the schedules show nothing."""
    counts = sum((run(seed).counts for seed in range(12)), start=run(12).counts)
    assert min(counts[what] for what in ("lost_workers", "asked_again", "moved")) > 10, counts
