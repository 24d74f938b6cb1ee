"""Intervals, pass@k, majority and paired comparison, against scipy and at their ends."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, hypergeom, permutation_test

from rethink.eval.statistics.estimates import (
    bootstrap_interval,
    majority,
    mean_interval,
    paired_comparison,
    pass_at_k,
    wilson_interval,
)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_equals_scipy(case: tuple[int, int]) -> None:
    right, n = case
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(right, n)
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)


def test_ends() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        wilson_interval(1, 4, 1.0)


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_mean_over_all_draws(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    assert pass_at_k(n, correct, k) == pytest.approx(hypergeom.sf(0, n, correct, k), abs=1e-9)


def test_pass_at_k_refuses() -> None:
    with pytest.raises(ValueError, match="k must be"):
        pass_at_k(3, 1, 4)
    with pytest.raises(ValueError, match="not a count"):
        pass_at_k(3, 4, 1)


def test_bootstrap_is_near_the_normal_interval_and_repeats() -> None:
    values = ([0.0] * 60 + [1.0] * 40) * 2
    low, high = bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.4 * 0.6 / len(values))
    assert low == pytest.approx(0.4 - half, abs=0.01)
    assert high == pytest.approx(0.4 + half, abs=0.01)
    assert bootstrap_interval(values) == (low, high)


def test_mean_interval_chooses() -> None:
    assert mean_interval([1.0, 0.0, 1.0], k=1) == wilson_interval(2, 3)
    assert mean_interval([0.5] * 10, k=4) == wilson_interval(5, 10)  # all equal: a bootstrap would have no width
    assert mean_interval([0.0] * 10, k=4) == wilson_interval(0, 10)
    assert mean_interval([0.25, 0.5, 1.0], k=4) == bootstrap_interval([0.25, 0.5, 1.0])
    assert mean_interval([0.3, 1.0], k=1) == bootstrap_interval([0.3, 1.0])  # graded scores are no trials
    assert mean_interval([], k=1) == (0.0, 1.0)


def test_majority_joins_equivalent_answers() -> None:
    def same(a: str, b: str) -> bool:
        return float(a) == float(b)

    assert majority(["1", "2", "1.0", "2.0", "1.00"], same) == 0
    assert majority(["3", "2", "2.0"], same) == 1
    assert majority(["7", "8"], same) == 0  # a tie goes to the answer that came first
    assert majority([None, None, "8", "7"], same) == 2  # the unparsed do not vote
    assert majority([None, "8", None, None], same) == 1
    assert majority([None], same) is None


def test_majority_compares_with_the_first_of_a_group() -> None:
    # Nearness is not transitive: 1.6 is near 1, 2.2 is near 1.6 but not near 1, so it founds a group of its own.
    assert majority(["1", "1.6", "2.2", "2.3", "2.4"], lambda a, b: abs(float(a) - float(b)) < 0.7) == 2


@given(st.lists(st.booleans(), min_size=1, max_size=60).flatmap(
    lambda a: st.tuples(st.just(a), st.lists(st.booleans(), min_size=len(a), max_size=len(a)))
))  # fmt: skip
def test_mcnemar_equals_scipy(case: tuple[list[bool], list[bool]]) -> None:
    first, second = [float(x) for x in case[0]], [float(x) for x in case[1]]
    result = paired_comparison(first, second, draws=50)
    wins = sum(b > a for a, b in zip(first, second, strict=True))
    losses = sum(b < a for a, b in zip(first, second, strict=True))
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert result.method == "mcnemar-exact"
    assert result.p == pytest.approx(expected, abs=1e-9)


def test_sign_flip_exact_and_drawn_agree_with_scipy() -> None:
    first = [0.1, 0.5, 0.25, 0.75, 0.5, 0.0, 0.3, 0.9, 0.2]
    second = [0.3, 0.75, 0.5, 0.75, 0.25, 0.5, 0.8, 0.85, 0.7]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    expected = permutation_test((differences,), statistics.fmean, permutation_type="samples", n_resamples=10**6).pvalue
    exact = paired_comparison(first, second)
    assert exact.method == "sign-flip"
    assert exact.p == pytest.approx(expected, abs=1e-9)
    many = paired_comparison(first * 2, second * 2, draws=20_000)  # 16 differ: flips are drawn
    enumerated = permutation_test((differences * 2,), statistics.fmean, permutation_type="samples", n_resamples=10**6)
    assert many.p == pytest.approx(enumerated.pvalue, abs=0.004)
    assert many.low < many.difference < many.high


def test_a_drawn_p_is_never_0() -> None:
    """No flip of 30 gains is as large as all of them: the pattern that was seen counts as one of the draws."""
    drawn = paired_comparison([0.25] * 30, [0.5] * 30, draws=99)
    assert drawn.p == 1 / 100
    counted = paired_comparison([0.25] * 12, [0.5] * 12)
    assert counted.p == 2 / 2**12  # all up, all down


def test_paired_comparison_refuses() -> None:
    with pytest.raises(ValueError, match="same problems"):
        paired_comparison([1.0], [1.0, 0.0])
    assert paired_comparison([0.5, 0.5], [0.5, 0.5]).p == 1.0
