"""What k samples a problem say of a model, and how sure it is: intervals, pass@k, majority, paired comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), which holds up near 0 and 1 and for few trials.

    Args:
        successes: right answers; a sum of graded scores is accepted and makes the interval conservative.
        n: scored answers. With 0 the interval is (0, 1).
        confidence: share of such intervals that hold the true proportion.

    Returns:
        (low, high), shares between 0 and 1.

    Raises:
        ValueError: `successes` is outside 0…n, or `confidence` is outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is not a proportion")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the exact values are 0 and 1; rounding would leave 1e-17.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron, 1979): the problems are drawn again, with replacement.

    Args:
        values: one number a problem (its mean over the k samples): problems are independent, samples of one are not.
        confidence: as in `wilson_interval`.
        draws: bootstrap samples.
        seed: of the draws, so that the same evaluation always prints the same interval.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    means = _bootstrap_means(np.asarray(values, dtype=np.float64), draws, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def mean_interval(values: Sequence[float], k: int) -> tuple[float, float]:
    """The 95 % interval of pass@1 from one mean a problem.

    Wilson's where k is 1 and every value is 0 or 1, and where all values are equal (a bootstrap would have no width);
    the bootstrap over problems otherwise. Without scored problems it is (0, 1).
    """
    if not values:
        return 0.0, 1.0
    all_equal = max(values) == min(values)
    if all_equal or (k == 1 and all(value in (0.0, 1.0) for value in values)):
        return wilson_interval(min(math.fsum(values), len(values)), len(values))
    return bootstrap_interval(values)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is right (Chen et al., 2021, arXiv 2107.03374, equation 1).

    1 - C(n - c, k) / C(n, k): what drawing k of the n samples without replacement gives on average.

    Raises:
        ValueError: not 1 ≤ k ≤ n, or not 0 ≤ correct ≤ n.
    """
    _check_counts(n, correct, k)
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mean_g_pass_at_k(n: int, correct: int, k: int) -> float:
    """mG-Pass@k (Liu et al., 2024, arXiv 2412.13147): twice the mean of G-Pass@k over thresholds between a half and 1.

    G-Pass@k with the threshold t: at least ⌈t · k⌉ of k samples are right.

    Raises:
        ValueError: as in `pass_at_k`.
    """
    _check_counts(n, correct, k)
    return 2 / k * sum(_at_least(n, correct, k, needed) for needed in range(math.ceil(k / 2) + 1, k + 1))


def _at_least(n: int, correct: int, k: int, needed: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold at least `needed` of the right ones."""
    ways = sum(math.comb(correct, right) * math.comb(n - correct, k - right) for right in range(needed, k + 1))
    return float(ways / math.comb(n, k))


def majority(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> int | None:
    """The sample whose answer most samples share (self-consistency, Wang et al., 2022, arXiv 2203.11171).

    Answers are grouped as they come: each joins the first group whose first answer it equals. Samples without an
    answer (None) do not vote; a tie goes to the group that came first.

    Args:
        answers: one a sample, in order.
        equal: whether an answer (first) is equivalent to a group's first answer (second).

    Returns:
        Index of the winning group's first sample; None where no sample has an answer.
    """
    groups: list[tuple[int, str]] = []
    votes: list[int] = []
    # Most samples repeat a spelling that was placed before: that needs no second comparison.
    placed: dict[str, int] = {}
    for index, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in placed:
            group = next((i for i, (_, first) in enumerate(groups) if equal(answer, first)), None)
            if group is None:
                group = len(groups)
                groups.append((index, answer))
                votes.append(0)
            placed[answer] = group
        votes[placed[answer]] += 1
    if not groups:
        return None
    return groups[max(range(len(groups)), key=lambda group: (votes[group], -group))][0]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two models on the same problems; a difference is second minus first."""

    n: int
    """Problems."""
    first: float
    """Mean of the first model."""
    second: float
    """Mean of the second."""
    difference: float
    low: float
    """Lower end of the difference's 95 % interval."""
    high: float
    p: float
    """Two-sided: how likely a difference at least as large is where the models are interchangeable."""
    method: str
    """`mcnemar-exact` (every value 0 or 1) or `sign-flip` (otherwise)."""


def paired_comparison(
    first: Sequence[float], second: Sequence[float], *, draws: int = 10_000, seed: int = 0
) -> PairedComparison:
    """Compare two models problem by problem.

    The interval is a bootstrap over problems of the paired difference. p is exact by McNemar's test (1947; binomial on
    the problems that only one solves) where every value is 0 or 1, and otherwise a sign-flip permutation test on the
    differences (Fisher, 1935): exact up to 12 problems that differ, else from `draws` random flips, (1 + hits) /
    (1 + draws), which never is 0.

    Raises:
        ValueError: no problems, or two lists of different length.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"a paired comparison needs the same problems twice, not {len(first)} and {len(second)}")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    differences = b - a
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    low, high = bootstrap_interval(differences.tolist(), draws=draws, seed=seed)
    p = _mcnemar(differences) if binary else _sign_flip(differences, draws, seed)
    return PairedComparison(
        n=len(first),
        first=float(a.mean()),
        second=float(b.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=p,
        method="mcnemar-exact" if binary else "sign-flip",
    )


EXACT_FLIPS = 12
"""Problems that differ up to which all sign patterns are counted (4,096) instead of drawn."""
_CELLS = 4_000_000
"""Numbers that one block of resampling holds."""


def _mcnemar(differences: NDArray[np.float64]) -> float:
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    trials = wins + losses
    tail = sum(math.comb(trials, i) for i in range(min(wins, losses) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**trials)))


def _sign_flip(differences: NDArray[np.float64], draws: int, seed: int) -> float:
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    # Sums that are equal in exact arithmetic must count as ties whatever the order of addition was.
    limit = abs(float(moved.sum())) - 1e-9
    if len(moved) <= EXACT_FLIPS:
        patterns = (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved))) & 1
        return float((np.abs((2.0 * patterns - 1) @ moved) >= limit).mean())
    generator = np.random.default_rng(seed)
    hits = 0
    for block in _blocks(draws, len(moved)):
        signs = 2.0 * generator.integers(0, 2, size=(block, len(moved))) - 1
        hits += int((np.abs(signs @ moved) >= limit).sum())
    return (1 + hits) / (1 + draws)


def _bootstrap_means(values: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    blocks = [
        values[generator.integers(0, len(values), size=(block, len(values)))].mean(axis=1)
        for block in _blocks(draws, len(values))
    ]
    return np.concatenate(blocks)


def _blocks(draws: int, width: int) -> list[int]:
    """`draws` cut into pieces whose rows of `width` numbers fit in memory."""
    size = max(1, _CELLS // max(width, 1))
    return [min(size, draws - start) for start in range(0, draws, size)]


def _check_counts(n: int, correct: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} samples, not {k}")
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right samples of {n} is not a count")
