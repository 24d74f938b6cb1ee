"""Values as plain data. Between a program and its tests only text crosses, and what is read from it is of these types.

None, bool, int, float, str, list are JSON; every other type is an object with one key, its tag:

    {"i": "0x…"} int of more than 64 bits    {"t": [...]} tuple       {"s": [...]} set      {"z": [...]} frozenset
    {"d": [[key, value], …]} dict            {"b": "hex"} bytes       {"B": "hex"} bytearray
    {"c": [re, im]} complex                  {"r": [...]} range       {"q": [...]} deque
    {"D": "…"} Decimal                       {"F": ["0x…", "0x…"]} Fraction
    {"h": number} an object that stays with the program; the number stands for it

A reader builds values of exactly these types whatever the writer meant to send: an object's own methods (`__eq__`,
`__len__`, …) never cross.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

Node = Any
"""A value as JSON."""

MAX_DIGITS = 10_000
"""Characters of a Decimal; more are refused, since reading them takes quadratic time."""


class Unreadable(Exception):
    """A text that is not a value."""


def encode(value: Any, hold: Callable[[Any], Node]) -> Node:
    """The value as JSON.

    Args:
        value: anything. Instances of subclasses (named tuples, counters, enumerations of ints) become their base type.
        hold: gives the node of an object that is no plain data, or raises.
    """
    if value is None or value is True or value is False:
        return value
    for base, write in _WRITERS:
        if isinstance(value, base):
            return write(value, hold)
    return hold(value)


def _int(value: int, hold: Callable[[Any], Node]) -> Node:
    plain = int(value)
    return plain if -(2**64) < plain < 2**64 else {"i": hex(plain)}


def _items(value: Any, hold: Callable[[Any], Node]) -> list[Node]:
    return [encode(item, hold) for item in value]


def _pairs(value: Mapping[Any, Any], hold: Callable[[Any], Node]) -> list[list[Node]]:
    return [[encode(key, hold), encode(item, hold)] for key, item in value.items()]


_WRITERS: tuple[tuple[type, Callable[[Any, Callable[[Any], Node]], Node]], ...] = (
    (int, _int),
    (float, lambda value, hold: float(value)),
    (str, lambda value, hold: str.__str__(value)),
    (list, _items),
    (tuple, lambda value, hold: {"t": _items(value, hold)}),
    (dict, lambda value, hold: {"d": _pairs(value, hold)}),
    (set, lambda value, hold: {"s": _items(value, hold)}),
    (frozenset, lambda value, hold: {"z": _items(value, hold)}),
    (bytes, lambda value, hold: {"b": value.hex()}),
    (bytearray, lambda value, hold: {"B": value.hex()}),
    (complex, lambda value, hold: {"c": [value.real, value.imag]}),
    (range, lambda value, hold: {"r": [_int(n, hold) for n in (value.start, value.stop, value.step)]}),
    (deque, lambda value, hold: {"q": _items(value, hold)}),
    (Decimal, lambda value, hold: {"D": str(value)}),
    (Fraction, lambda value, hold: {"F": [hex(value.numerator), hex(value.denominator)]}),
)


def decode(node: Node, find: Callable[[int], Any]) -> Any:
    """The value that a node stands for.

    Args:
        node: parsed JSON, which may have been written by an enemy.
        find: gives the object of a number.

    Raises:
        Unreadable: it is no value.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [decode(item, find) for item in node]
    if not isinstance(node, dict) or len(node) != 1:
        raise Unreadable("an object without one tag")
    ((tag, content),) = node.items()
    try:
        return _READERS[tag](content, find)
    except Unreadable:
        raise
    except Exception as error:  # wrong types below a tag, unhashable members, zero denominators
        raise Unreadable(f"`{tag}`: {type(error).__name__}") from None


def _integer(content: Any, find: Callable[[int], Any] | None = None) -> int:
    return int(content, 16) if isinstance(content, str) else _plain_integer(content)


def _plain_integer(content: Any) -> int:
    if type(content) is not int:
        raise Unreadable("not an integer")
    return content


def _values(content: Any, find: Callable[[int], Any]) -> list[Any]:
    if not isinstance(content, list):
        raise Unreadable("not a list")
    return [decode(item, find) for item in content]


def _number(content: Any) -> float:
    if not isinstance(content, float | int):
        raise Unreadable("not a number")
    return float(content)


def _range(content: Any, find: Callable[[int], Any]) -> range:
    start, stop, step = content
    return range(*(decode(part, find) for part in (start, stop, step)))


def _decimal(content: Any, find: Callable[[int], Any]) -> Decimal:
    if not isinstance(content, str) or len(content) > MAX_DIGITS:
        raise Unreadable("not a Decimal")
    return Decimal(content)


_READERS: dict[str, Callable[[Any, Callable[[int], Any]], Any]] = {
    "i": _integer,
    "t": lambda content, find: tuple(_values(content, find)),
    "d": lambda content, find: {decode(key, find): decode(value, find) for key, value in content},
    "s": lambda content, find: set(_values(content, find)),
    "z": lambda content, find: frozenset(_values(content, find)),
    "b": lambda content, find: bytes.fromhex(content),
    "B": lambda content, find: bytearray.fromhex(content),
    "c": lambda content, find: complex(_number(content[0]), _number(content[1])),
    "r": _range,
    "q": lambda content, find: deque(_values(content, find)),
    "D": _decimal,
    "F": lambda content, find: Fraction(_integer(content[0]), _integer(content[1])),
    "h": lambda content, find: find(_plain_integer(content)),
}


def dumps(message: Node) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def loads(line: bytes) -> Node:
    """Parsed JSON. Raises `Unreadable`."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}") from None
