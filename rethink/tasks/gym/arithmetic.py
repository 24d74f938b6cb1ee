"""Arithmetic that a model wrote (`(3 + 5) * 3`), read by a grammar of ours and computed exactly. Never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

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


class _Unreadable(Exception):
    """The text is no expression."""


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
        value = reader.sum(0)
        said = None
        if reader.peek() == "=":
            reader.take()
            said = reader.signed(0)
        if reader.peek() is not None:
            return None
    except (_Unreadable, ZeroDivisionError):
        return None
    numbers = reader.numbers if said is None else reader.numbers[:-1]
    return Computed(value, tuple(numbers), said)


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _Unreadable
        found.append(match.group(1) or match.group(2))
        place = match.end()
    if sum(token.isdigit() for token in found) > MAX_NUMBERS:
        raise _Unreadable
    return found


class _Reader:
    """Recursive descent: sum -> product (± product)…, product -> signed (*/ signed)…, signed -> ± signed | atom."""

    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._place = 0
        self.numbers: list[int] = []

    def peek(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise _Unreadable
        self._place += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while (token := self.peek()) in ("+", "-"):
            self.take()
            term = self.product(depth)
            value = value + term if token == "+" else value - term
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while (token := self.peek()) in ("*", "/"):
            self.take()
            factor = self.signed(depth)
            value = value * factor if token == "*" else value / factor
        return value

    def signed(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _Unreadable
        token = self.take()
        if token in ("+", "-"):
            value = self.signed(depth + 1)
            return -value if token == "-" else value
        if token == "(":
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise _Unreadable
            return value
        if not token.isdigit():
            raise _Unreadable
        self.numbers.append(int(token))
        return Fraction(self.numbers[-1])
