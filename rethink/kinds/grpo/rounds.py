"""Rounds of dynamic sampling, as functions of which groups of a batch turned out to have a signal.

A round asks as many new problems as groups are missing, and at least so many. Without dynamic sampling there is one
round, and all its groups are trained on. DAPO (arXiv 2503.14476), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence


def round_size(no_signal: Sequence[bool], wanted: int, least: int) -> int:
    """How many problems the next round asks, after these groups; 0: there are enough with signal."""
    missing = wanted - list(no_signal).count(False)
    return max(missing, least) if missing > 0 else 0


def rounds_of(no_signal: Sequence[bool], wanted: int, least: int) -> int:
    """In how many rounds these groups were sampled."""
    rounds = asked = 0
    while asked < len(no_signal):
        asked += round_size(no_signal[:asked], wanted, least) or len(no_signal)
        rounds += 1
    return rounds


def trained_places(no_signal: Sequence[bool], wanted: int) -> tuple[int, ...]:
    """Which groups are trained on, in order: the first with signal, and where these are too few the first without."""
    best = sorted(range(len(no_signal)), key=lambda place: no_signal[place])  # stable
    return tuple(sorted(best[:wanted]))
