"""Reliability bins and expected calibration error by hand."""

from __future__ import annotations

import pytest

from rethink.eval.statistics.calibration import expected_calibration_error, reliability


def test_by_hand() -> None:
    table = reliability([0.05, 0.15, 0.15, 0.95, 1.0], [False, False, True, True, True])
    assert [entry.n for entry in table] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert table[1].share == 0.5
    assert table[9].probability == pytest.approx(0.975)
    assert table[2].share is None
    assert expected_calibration_error(table) == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)


def test_of_the_likelier_of_two() -> None:
    table = reliability([0.5, 0.62, 0.99], [True, False, True], low=0.5)
    assert [entry.n for entry in table] == [1, 0, 1, 0, 0, 0, 0, 0, 0, 1]
    assert table[0].low == 0.5
    assert table[-1].high == pytest.approx(1.0)


def test_nothing_and_nonsense() -> None:
    assert expected_calibration_error(reliability([], [])) == 0
    with pytest.raises(ValueError, match="must be in"):
        reliability([0.4], [True], low=0.5)
    with pytest.raises(ValueError, match="outcomes"):
        reliability([0.4], [])
