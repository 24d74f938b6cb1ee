"""Intervals of measured shares."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson, 1927), which holds up near 0 and 1 and for few trials.

    Args:
        successes: right answers; a sum of graded scores is accepted and makes the interval conservative.
        n: answers judged. 0 says nothing, and the interval is (0, 1).
        confidence: share of such intervals that hold the true proportion.

    Returns:
        (low, high), shares between 0 and 1.

    Raises:
        ValueError: `successes` lies outside 0…n, or `confidence` outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
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
