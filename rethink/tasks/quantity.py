"""A number with what stood beside it, and when two of them are the same."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from rethink.tasks.units import NEEDED, in_units

ROUNDED_DIGITS = 6
"""Significant digits from which on a decimal may equal the value that it is rounded from."""


class Quantity(NamedTuple):
    """A number that was read, and what stood with it."""

    value: Fraction
    written: str = ""
    """The number as it was written where it is a plain decimal."""
    percent: bool = False
    unit: str | None = None
    name: str | None = None
    """The variable that it is assigned to (`x = 5`)."""
    unit_needed: bool = False
    """Whether it has no meaning without its unit (1 hour 30 minutes)."""


def same_quantity(ours: Quantity, gold: Quantity, *, rounded: bool) -> bool:
    """Whether two quantities are the same number.

    `28%` equals both 28 and 0.28, since gold answers leave the sign out as often as not. A unit may be left out, and
    may be another of the same kind (1.5 hours are 90 minutes); one that contradicts the gold's is wrong, and so is
    another name. With `rounded` a decimal of six digits may be the
    rounded value.
    """
    if None not in (ours.name, gold.name) and ours.name != gold.name:
        return False
    factor = _factor(ours, gold)
    if factor is None:
        return False
    if factor != 1:
        ours = ours._replace(value=ours.value * factor, written="")
    if (gold.percent and ours.unit is not None) or (ours.percent and gold.unit is not None):
        return False
    if _same(ours.value, ours.written, gold, rounded):
        return True
    if gold.percent and not ours.percent:
        return _same(ours.value * 100, "", gold, rounded)
    return ours.percent and not gold.percent and ours.value / 100 == gold.value


def _factor(ours: Quantity, gold: Quantity) -> Fraction | None:
    """The answer's unit in units of the gold answer; None if the units do not agree."""
    if ours.unit is not None and gold.unit is not None:
        return in_units(ours.unit, gold.unit)
    alone = ours if gold.unit is None else gold
    needed = alone.unit_needed or (ours.unit is not None and ours.unit in NEEDED)
    return None if needed else Fraction(1)


def _same(value: Fraction, written: str, gold: Quantity, rounded: bool) -> bool:
    return value == gold.value or (rounded and rounds_to(value, written, gold.value, gold.written))


def rounds_to(ours: Fraction, written: str | None, gold: Fraction, gold_written: str | None) -> bool:
    """Whether one of two numbers is a decimal of six digits or more that the other is rounded to.

    The answer may be cut instead (0.666666 for 2/3), the gold only where the answer is no decimal: one that goes on
    otherwise than the gold's next digits would is another number.
    """
    return _decimal_of(written, ours, gold, cut=True) or _decimal_of(
        gold_written, gold, ours, cut="." not in (written or "")
    )


def _decimal_of(written: str | None, value: Fraction, exact: Fraction, *, cut: bool) -> bool:
    _, point, places = (written or "").partition(".")
    digits = (written or "").lstrip("-0.").replace(".", "")
    if not point or exact.denominator == 1 or len(digits) < ROUNDED_DIGITS or (value > 0) != (exact > 0):
        return False
    # Distance of the exact value beyond the decimal, in units of its last place.
    beyond = (abs(exact) - abs(value)) * 10 ** len(places)
    return abs(beyond) <= Fraction(1, 2) or (cut and 0 <= beyond < 1)
