"""Arithmetic that a model wrote (`(3 + 5) * 3`), parsed with our own grammar and computed exactly. Never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rethink.tasks.gym.descent import Descent, Unreadable

MAX_TEXT = 400
"""Characters; longer expressions are not read."""
MAX_NUMBERS = 40
MAX_DIGITS = 20
MAX_DEPTH = 24
"""Brackets and signs within one another."""

_SPELLINGS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\\left": "",
    "\\right": "",
    "×": "*",
    "∗": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "−": "-",
    "–": "-",
    "（": "(",
    "）": ")",
}
_TOKEN = re.compile(rf"\s*(?:([0-9]{{1,{MAX_DIGITS}}})(?![0-9.,])|([-+*/()=]))")


@dataclass(frozen=True, slots=True)
class Computed:
    """What an expression says."""

    value: Fraction
    numbers: tuple[int, ...]
    """The numbers in it, in their order."""
    said: Fraction | None
    """What follows an equals sign at its end; None without one."""


def compute(text: str) -> Computed | None:
    """The value of an expression of whole numbers, `+ - * /` and brackets; None for any other text.

    Multiplication and division may be spelt as usual (`×`, `÷`, `\\times`); `= number` may follow.
    """
    if len(text) > MAX_TEXT:
        return None
    for spelling, plain in _SPELLINGS.items():
        text = text.replace(spelling, plain)
    text = text.strip().strip("$").strip().removesuffix(".")
    try:
        reader = _Reader(_tokens(text))
        value, numbers, said = reader.sum(0), tuple(reader.numbers), None
        if reader.peek() == "=":
            reader.take()
            said = reader.factor(0)
        if reader.peek() is not None:
            return None
    except (Unreadable, ZeroDivisionError):
        return None
    return Computed(value, numbers, said)


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable
        found.append(match.group(1) or match.group(2))
        place = match.end()
    if sum(token.isdigit() for token in found) > MAX_NUMBERS:
        raise Unreadable
    return found


class _Reader(Descent):
    """A factor is a number, a sum in brackets, or one of them with a sign."""

    def __init__(self, tokens: list[str]):
        super().__init__(tokens)
        self.numbers: list[int] = []

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise Unreadable
        token = self.take()
        if token in ("+", "-"):
            value: Fraction = self.factor(depth + 1)
            return -value if token == "-" else value
        if token == "(":
            value = self.sum(depth + 1)
            self.take(")")
            return value
        if not token.isdigit():
            raise Unreadable
        self.numbers.append(int(token))
        return Fraction(self.numbers[-1])
