"""Before and after on the held-out problems: the same rows for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rethink.observe.number_text import number, percent

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One quantity as text, before and after, and by how much it changed."""

    label: str
    before: str
    after: str
    change: str


Entry = Mapping[str, Any]


def comparison(before: Entry | None, after: Entry | None) -> list[Row]:
    """The rows of the table; what an evaluation lacks is a dash.

    Each of the two is `{accuracy, accuracy_ci, format, length_mean, n, judged}`, as in `summary.json`.
    """
    ends = (_judged_only(before or {}), _judged_only(after or {}))
    return [
        _row("accuracy", ends, "accuracy", percent, points=True),
        Row("95 % interval", _interval(ends[0]), _interval(ends[1]), ""),
        _row("format", ends, "format", percent, points=True),
        _row("mean length", ends, "length_mean", lambda value: f"{value:.1f} tokens"),
        *([_row("truncated", ends, "truncated", percent, points=True)] if _either(ends, "truncated") else []),
        Row("problems", _count(ends[0]), _count(ends[1]), ""),
    ]


def verdict(before: Entry | None, after: Entry | None, why: str = "") -> str:
    """Whether the change of accuracy is more than chance would make it; empty where there is nothing to compare.

    `why`: the reason why the run did not learn (`diagnosis`), if any; it is shown instead of chance.
    """
    first, last = _ends(_judged_only(before or {})), _ends(_judged_only(after or {}))
    if first is None or last is None:
        return why
    if last[0] > first[1]:
        return f"The intervals do not overlap: held-out accuracy rose by more than chance explains. {why}".rstrip()
    if last[1] < first[0]:
        return f"The intervals do not overlap: held-out accuracy fell by more than chance explains. {why}".rstrip()
    return why or (
        "The intervals overlap, so the change may be chance; more held-out problems (evaluation.problems) narrow them."
    )


def evaluation_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation of `report_data` in the form that `summary.json` has for `before` and `after`."""
    return {**row, "accuracy_ci": [row.get("accuracy_low"), row.get("accuracy_high")]}


def _judged_only(entry: Entry) -> Entry:
    """An evaluation without accuracy where no problem could be judged."""
    return {**entry, "accuracy": None, "accuracy_ci": None} if entry.get("judged") == 0 else entry


def _row(
    label: str, ends: tuple[Entry, Entry], name: str, form: Callable[[float], str], *, points: bool = False
) -> Row:
    first, last = (_finite(end.get(name)) for end in ends)
    change = ""
    if first is not None and last is not None:
        change = f"{100 * (last - first):+.1f} points" if points else f"{last - first:+.1f}"
    before, after = (MISSING if value is None else form(value) for value in (first, last))
    return Row(label, before, after, change)


def _either(ends: tuple[Entry, Entry], name: str) -> bool:
    return any(_finite(end.get(name)) is not None for end in ends)


def _finite(value: Any) -> float | None:
    found = number({"value": value}, "value")
    return found if found is not None and math.isfinite(found) else None


def _ends(entry: Entry) -> tuple[float, float] | None:
    """Lower and upper end of the interval."""
    pair = entry.get("accuracy_ci")
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return None
    low, high = _finite(pair[0]), _finite(pair[1])
    return None if low is None or high is None else (low, high)


def _interval(entry: Entry) -> str:
    ends = _ends(entry)
    return MISSING if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def _count(entry: Entry) -> str:
    value, judged = _finite(entry.get("n")), _finite(entry.get("judged"))
    if value is None:
        return MISSING
    return f"{value:,.0f}" if judged in (None, value) else f"{value:,.0f} ({judged:,.0f} judged)"
