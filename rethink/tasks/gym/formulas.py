"""Formulas that a model wrote (`-9*x**8/10 + sin(2*x)`), read by a grammar of ours into sympy objects.

sympy's own reader evaluates its text as Python, so it never sees an answer. The grammar has numbers, the variable, `C`,
`E`, `pi`, the functions of `FUNCTIONS`, `+ - * / ** ^` and brackets; sizes are bounded before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

MAX_TEXT = 600
"""Characters; longer formulas are not read."""
MAX_DEPTH = 24
MAX_DIGITS = 30
MAX_EXPONENT = 200
"""Of a power with a number in its exponent."""
MAX_POWER_DIGITS = 2000
"""Digits that a power of two numbers may have."""
FUNCTIONS = (
    "sin cos tan sec csc cot asin acos atan acot arcsin arccos arctan sinh cosh tanh asinh acosh atanh exp log ln sqrt "
    "Abs"
).split()
_SYMPY_NAMES = {"ln": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}

_TOKEN = re.compile(
    rf"\s*(?:([0-9]{{1,{MAX_DIGITS}}}(?:\.[0-9]{{0,{MAX_DIGITS}}})?)(?![0-9.])|([A-Za-z]{{1,8}})(?![A-Za-z0-9_])"
    r"|(\*\*|[-+*/^()]))"
)


class _Unreadable(Exception):
    """The text is no formula."""


def read_formula(text: str, variables: Mapping[str, Any]) -> Any | None:
    """The sympy expression that the whole text is; None for any other text.

    Args:
        text: a formula.
        variables: the symbols that may stand in it, by name.
    """
    if len(text) > MAX_TEXT:
        return None
    try:
        reader = _Reader(_tokens(text.strip().strip("$").replace("−", "-")), variables)
        value = reader.sum(0)
    except (_Unreadable, ZeroDivisionError):
        return None
    return value if reader.peek() is None else None


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise _Unreadable
        found.append("**" if match.group(3) == "^" else match.group(1) or match.group(2) or match.group(3))
        place = match.end()
    return found


class _Reader:
    """Recursive descent with Python's precedences: a power binds to its right, and closer than a sign before it."""

    def __init__(self, tokens: list[str], variables: Mapping[str, Any]):
        import sympy

        self._sympy = sympy
        self._tokens = tokens
        self._place = 0
        self._names = {"E": sympy.E, "e": sympy.E, "pi": sympy.pi, **variables}

    def peek(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        if token is None or (wanted is not None and token != wanted):
            raise _Unreadable
        self._place += 1
        return token

    def sum(self, depth: int) -> Any:
        value = self.product(depth)
        while (token := self.peek()) in ("+", "-"):
            self.take()
            term = self.product(depth)
            value = value + term if token == "+" else value - term
        return value

    def product(self, depth: int) -> Any:
        value = self.signed(depth)
        while (token := self.peek()) in ("*", "/"):
            self.take()
            factor = self.signed(depth)
            if token == "/" and factor.is_zero:
                raise _Unreadable
            value = value * factor if token == "*" else value / factor
        return value

    def signed(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _Unreadable
        if (token := self.peek()) in ("+", "-"):
            self.take()
            value = self.signed(depth + 1)
            return -value if token == "-" else value
        return self._power(depth)

    def _power(self, depth: int) -> Any:
        base = self._atom(depth)
        if self.peek() != "**":
            return base
        self.take()
        exponent = self.signed(depth + 1)
        self._check_power(base, exponent)
        value = base**exponent
        if value.is_Pow and value.exp.is_number and value.exp.is_Rational and abs(value.exp) > MAX_EXPONENT:
            raise _Unreadable
        return value

    def _check_power(self, base: Any, exponent: Any) -> None:
        """Refuse a power whose computing could take unbounded time."""
        if not exponent.is_number:
            return
        if not exponent.is_Rational:
            if base.is_Rational and len(str(base)) > MAX_DIGITS:
                raise _Unreadable
            return
        if abs(exponent) > MAX_EXPONENT or exponent.q > MAX_EXPONENT:
            raise _Unreadable
        if base.is_zero and exponent <= 0:
            raise _Unreadable
        if base.is_number and base.is_Rational:
            digits = max(_digits(base.p), _digits(base.q))
            if digits * abs(exponent) > MAX_POWER_DIGITS:
                raise _Unreadable

    def _atom(self, depth: int) -> Any:
        token = self.take()
        if token == "(":
            value = self.sum(depth + 1)
            self.take(")")
            return value
        if token[0].isdigit():
            number = Fraction(token.rstrip("."))
            return self._sympy.Rational(number.numerator, number.denominator)
        if token in self._names:
            return self._names[token]
        if token not in FUNCTIONS:
            raise _Unreadable
        self.take("(")
        argument = self.sum(depth + 1)
        self.take(")")
        if argument.is_Rational and max(_digits(argument.p), _digits(argument.q)) > MAX_DIGITS:
            raise _Unreadable
        return getattr(self._sympy, _SYMPY_NAMES.get(token, token))(argument)


def _digits(number: Any) -> int:
    """At least the decimal digits of a whole number, without writing it."""
    return int(number).bit_length() // 3 + 1
