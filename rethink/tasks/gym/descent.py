"""What our readers of arithmetic and of formulas share: sums of products, read from tokens from left to right."""

from __future__ import annotations

from typing import Any


class Unreadable(Exception):
    """The text is not of the grammar."""


class Descent:
    """Reads `sum -> product (± product)…` and `product -> factor (*/ factor)…`; a subclass says what a factor is."""

    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._place = 0

    def peek(self) -> str | None:
        """The next token; None at the end."""
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def take(self, wanted: str | None = None) -> str:
        """The next token, which is used up.

        Raises:
            Unreadable: there is none, or it is not the wanted one.
        """
        token = self.peek()
        if token is None or (wanted is not None and token != wanted):
            raise Unreadable
        self._place += 1
        return token

    def sum(self, depth: int) -> Any:
        """The value of a sum; `depth` counts the brackets and signs around it."""
        value = self.product(depth)
        while (token := self.peek()) in ("+", "-"):
            self.take()
            term = self.product(depth)
            value = value + term if token == "+" else value - term
        return value

    def product(self, depth: int) -> Any:
        """The value of a product. Division by zero raises `ZeroDivisionError`."""
        value = self.factor(depth)
        while (token := self.peek()) in ("*", "/"):
            self.take()
            factor = self.factor(depth)
            if token == "/" and factor == 0:
                raise ZeroDivisionError
            value = value * factor if token == "*" else value / factor
        return value

    def factor(self, depth: int) -> Any:
        """The value of an operand."""
        raise NotImplementedError
