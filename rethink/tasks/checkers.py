"""Comparing an answer with the gold as exact numbers, and which checker a source uses. Answers are hostile input."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal

from rethink.recipe.schema import TaskSource

Checker = Callable[[str, str | None], float | None]
"""(answer, gold) -> 1, 0, or None where the gold cannot be read. May raise."""

MAX_NUMBER = 100
"""Characters of a number; longer ones are wrong (reading digits takes quadratic time)."""
MAX_EXPRESSION = 400
"""Characters of a mathematical answer; longer ones are wrong."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")
_ANY_NUMBER = re.compile(r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?!,?\d)")


def exact_number(answer: str, gold: str | None) -> float | None:
    """1 where both are the same number exactly (`1,000` = `1000` = `1000.0`; `1/2` = `0.5`).

    A leading currency sign and a trailing `%`, unit or full stop are allowed where the text holds one number only.
    """
    right = None if gold is None else read_number(gold)
    if right is None:
        return None
    return float(read_number(answer) == right)


def read_number(text: str) -> Fraction | None:
    """The number that a text is, or the only one that it holds; None where there is none or more than one."""
    plain = text.strip()
    if not _is_number(plain):
        if len(plain) > MAX_EXPRESSION:
            return None
        found = _ANY_NUMBER.findall(plain)
        if len(found) != 1:
            return None
        plain = found[0].rstrip(",")
    if len(plain) > MAX_NUMBER:
        return None
    top, _, bottom = plain.replace(",", "").partition("/")
    try:
        return Fraction(top) / Fraction(bottom or "1")
    except (ValueError, ZeroDivisionError):
        return None


def _is_number(text: str) -> bool:
    return any(char.isdigit() for char in text[:MAX_NUMBER]) and _NUMBER.fullmatch(text[: MAX_NUMBER + 1]) is not None


def choose_checker(source: TaskSource, golds: Sequence[str | None]) -> Literal["exact-number", "math-verify"]:
    """The checker that the recipe names; `auto`: exact numbers where every gold is one, else math-verify."""
    if source.checker in ("exact-number", "math-verify"):
        return "exact-number" if source.checker == "exact-number" else "math-verify"
    numbers = all(gold is None or _is_number(gold.strip()) for gold in golds)
    return "exact-number" if numbers else "math-verify"
