"""Whether a probability that a model gives is the share of cases in which it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Cases whose probability falls into [low, high) (the last bin takes 1 as well)."""

    low: float
    high: float
    n: int
    probability: float | None
    """Mean probability that was given; None in an empty bin."""
    share: float | None
    """Share of the cases in which the event came about; None in an empty bin."""


def reliability(
    probabilities: Sequence[float], outcomes: Sequence[bool], *, low: float = 0.0, bins: int = BINS
) -> list[ReliabilityBin]:
    """The reliability diagram (Guo et al., arXiv 1706.04599, section 2): bins of equal width over [low, 1].

    Args:
        probabilities: what was given for each case, within [low, 1].
        outcomes: whether the event came about.
        low: least possible probability; 0.5 where it is that of the likelier of two.
        bins: their number.

    Raises:
        ValueError: the lengths differ, or a probability is outside [low, 1].
    """
    if len(probabilities) != len(outcomes):
        raise ValueError(f"{len(probabilities)} probabilities of {len(outcomes)} outcomes")
    if any(not low <= p <= 1 for p in probabilities):
        raise ValueError(f"probabilities must be in [{low:g}, 1]")
    width = (1.0 - low) / bins
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, p in enumerate(probabilities):
        members[min(int((p - low) / width), bins - 1)].append(i)
    table = []
    for number, inside in enumerate(members):
        given = sum(probabilities[i] for i in inside) / len(inside) if inside else None
        came = sum(outcomes[i] for i in inside) / len(inside) if inside else None
        table.append(ReliabilityBin(low + number * width, low + (number + 1) * width, len(inside), given, came))
    return table


def expected_calibration_error(table: Sequence[ReliabilityBin]) -> float:
    """Mean of |share - probability| over the bins, each weighed by its cases (Guo et al., equation 3); 0 for none."""
    total = sum(entry.n for entry in table)
    gaps = (entry.n * abs(entry.share - entry.probability) for entry in table if entry.n)  # type: ignore[operator]
    return sum(gaps) / total if total else 0.0
