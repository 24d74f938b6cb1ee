"""Formulas that a model wrote (`-9*x**8/10 + sin(2*x)`), parsed with our own grammar into sympy objects.

sympy's own reader evaluates its text as Python, so it never sees an answer. The grammar has numbers, the variable, `C`,
`E`, `pi`, the functions of `FUNCTIONS`, `+ - * / ** ^` and brackets; sizes are bounded before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rethink.tasks.gym.descent import Descent, Unreadable

MAX_TEXT = 600
"""Characters; longer formulas are not read."""
MAX_DEPTH = 24
MAX_DIGITS = 30
MAX_EXPONENT = 200
"""Of a power with a number in its exponent."""
MAX_CONSTANT = 1000
"""Size of a number that a function is taken of, or that is raised to what is no fraction."""
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


def read_formula(text: str, variables: Mapping[str, Any]) -> Any | None:
    """The sympy expression that the whole text is; None for any other text.

    Args:
        text: a formula.
        variables: the symbols that it may contain, by name.
    """
    if len(text) > MAX_TEXT:
        return None
    try:
        reader = _Reader(_tokens(text.strip().strip("$").replace("−", "-")), variables)
        value = reader.sum(0)
    except (Unreadable, ZeroDivisionError):
        return None
    return value if reader.peek() is None and not reader.holds_infinity(value) else None


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    place, end = 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            raise Unreadable
        found.append("**" if match.group(3) == "^" else match.group(1) or match.group(2) or match.group(3))
        place = match.end()
    return found


class _Reader(Descent):
    """A factor is a power, perhaps with a sign. A power binds to its right, and closer than a sign before it."""

    def __init__(self, tokens: list[str], variables: Mapping[str, Any]):
        import sympy

        super().__init__(tokens)
        self._sympy = sympy
        self._names = {"E": sympy.E, "e": sympy.E, "pi": sympy.pi, **variables}

    def holds_infinity(self, value: Any) -> bool:
        """Whether something in a formula has no finite value, like `log(0)`."""
        infinities = (self._sympy.zoo, self._sympy.oo, -self._sympy.oo, self._sympy.nan)
        return bool(value.has(*infinities))

    def factor(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Unreadable
        if (token := self.peek()) in ("+", "-"):
            self.take()
            value = self.factor(depth + 1)
            return -value if token == "-" else value
        return self._power(depth)

    def _power(self, depth: int) -> Any:
        base = self._atom(depth)
        if self.peek() != "**":
            return base
        self.take()
        exponent = self.factor(depth + 1)
        self._check_power(base, exponent)
        value = base**exponent
        if value.is_Pow and value.exp.is_number and value.exp.is_Rational and abs(value.exp) > MAX_EXPONENT:
            raise Unreadable
        return value

    def _check_power(self, base: Any, exponent: Any) -> None:
        """Refuse a power whose computing could take unbounded time."""
        if not exponent.is_number:
            return
        if not exponent.is_Rational:
            self._check_constant(exponent)
            if base.is_number:
                self._check_constant(base)
            return
        if abs(exponent) > MAX_EXPONENT or exponent.q > MAX_EXPONENT:
            raise Unreadable
        if base.is_zero and exponent <= 0:
            raise Unreadable
        if base.is_number and base.is_Rational:
            digits = max(_digits(base.p), _digits(base.q))
            if digits * abs(exponent) > MAX_POWER_DIGITS:
                raise Unreadable

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
            raise Unreadable
        self.take("(")
        argument = self.sum(depth + 1)
        self.take(")")
        if argument.is_number:
            self._check_constant(argument)
        return getattr(self._sympy, _SYMPY_NAMES.get(token, token))(argument)

    def _check_constant(self, value: Any) -> None:
        """Refuse a number that a function or a power may take long to compute of: a large one, or one of functions."""
        rational = all(power.exp.is_Rational for power in value.atoms(self._sympy.Pow))
        if value.atoms(self._sympy.Function) or not rational:
            raise Unreadable
        if value.is_Rational and max(_digits(value.p), _digits(value.q)) > MAX_DIGITS:
            raise Unreadable
        if abs(complex(value.evalf(5))) > MAX_CONSTANT:
            raise Unreadable


def _digits(number: Any) -> int:
    """At least the decimal digits of a whole number, without writing it."""
    return int(number).bit_length() // 3 + 1
