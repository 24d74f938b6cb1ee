"""Lists that a model wrote (`[[1, 2], ["a"]]`), in JSON's form or Python's; read by our grammar, not evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_TEXT = 50_000
"""Characters; longer texts are not read."""
MAX_DEPTH = 4
"""Lists within one another."""

Value = str | Fraction | list["Value"]
"""A text in quotes, a number, or a list of these."""

_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?![0-9.A-Za-z_])")
_TEXT = re.compile(r"\"([^\"\\\n]{0,1000})\"|'([^'\\\n]{0,1000})'")
_SPACE = re.compile(r"[ \t\r\n]*")
_CLOSING = {"[": "]", "(": ")"}


class _Unreadable(Exception):
    """The text is no list."""


def read_list(text: str) -> list[Value] | None:
    """The list, or tuple, that the whole text is; None for any other text.

    Items are numbers, texts in quotes without backslashes, and lists. A comma may follow the last item.
    """
    text = text.strip()
    if not text or len(text) > MAX_TEXT or text[0] not in _CLOSING:
        return None
    try:
        value, place = _list(text, 0, 1)
    except _Unreadable:
        return None
    return value if place == len(text) else None


def _list(text: str, place: int, depth: int) -> tuple[list[Value], int]:
    if depth > MAX_DEPTH:
        raise _Unreadable
    closing, items = _CLOSING[text[place]], list[Value]()
    place = _skip(text, place + 1)
    while text[place : place + 1] != closing:
        item, place = _item(text, place, depth)
        items.append(item)
        place = _skip(text, place)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != closing:
            raise _Unreadable
    return items, place + 1


def _item(text: str, place: int, depth: int) -> tuple[Value, int]:
    if text[place : place + 1] in ("[", "("):
        return _list(text, place, depth + 1)
    if number := _NUMBER.match(text, place):
        return Fraction(number.group()), number.end()
    if quoted := _TEXT.match(text, place):
        return quoted.group(1) or quoted.group(2) or "", quoted.end()
    raise _Unreadable


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def as_text(value: Value) -> str:
    """An item as it is printed: a whole number without a point; "" for a list, which no cell is."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ""
    return str(value.numerator) if value.denominator == 1 else str(float(value))
