"""Comparing an answer with the gold as exact numbers, and which checker a source uses. Answers are hostile input."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from rethink.recipe.schema import TaskSource
from rethink.tasks.numbers import MAX_DIGITS, read_quantity
from rethink.tasks.quantity import same_quantity

Checker = Callable[[str, str | None], float | None]
"""(answer, gold) -> 1, 0, or None where the gold cannot be read. May raise."""


_PLAIN = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?", re.ASCII)


def exact_number(answer: str, gold: str | None) -> float | None:
    """1 where both are the same number exactly (`1,000` = `1000.0`; `1/2` = `0.5`), None where the gold is no number.

    `rethink.tasks.numbers` says what may surround a number (`$18`, `x = 18`, `18 dollars`) and what makes it
    another one, or none (`18x`, `18 million`, `not 18`).
    """
    right = None if gold is None else read_quantity(gold)
    if right is None:
        return None
    ours = read_quantity(answer)
    return float(ours is not None and same_quantity(ours, right, rounded=False))


def choose_checker(source: TaskSource, golds: Sequence[str | None]) -> Literal["exact-number", "math-verify"]:
    """The checker that the recipe names; `auto`: exact numbers where every gold is one, else math-verify."""
    if source.checker in ("exact-number", "math-verify"):
        return "exact-number" if source.checker == "exact-number" else "math-verify"
    return "exact-number" if all(gold is None or _is_plain(gold) for gold in golds) else "math-verify"


def _is_plain(text: str) -> bool:
    """Whether the text is nothing but digits: an integer, a decimal or a fraction with a stroke."""
    text = text.strip()
    return len(text) <= MAX_DIGITS and any(c.isdigit() for c in text) and _PLAIN.fullmatch(text) is not None
