"""Values as plain data. Between a program and its tests only text crosses, and what is read from it is of these types.

None, bool, int, float, str, list are JSON; every other type is an object with one key, its tag:

    {"i": "0x…"} int of more than 64 bits    {"t": [...]} tuple       {"s": [...]} set      {"z": [...]} frozenset
    {"d": [[key, value], …]} dict            {"b": "hex"} bytes       {"B": "hex"} bytearray
    {"c": [re, im]} complex                  {"r": [...]} range       {"q": [...]} deque
    {"D": "…"} Decimal                       {"F": ["0x…", "0x…"]} Fraction
    {"C": [[key, value], …]} Counter         {"O": [[key, value], …]} OrderedDict
    {"N": [name, [field, …], [...]]} named tuple
    {"Y": [...]} date   {"Z": [...]} datetime   {"H": [...]} time   {"L": [...]} timedelta   {"U": seconds} timezone
    {"T": "collections.Counter"} a type of the standard library, of `TYPES`
    {"h": …} an object that stays where it is; what stands there names it
    {"o": [number, value]} a container of this message that may be changed; {"o": number} the same one again

A reader builds values of exactly these types whatever the writer meant to send: an object's own methods (`__eq__`,
`__len__`, …) never cross.
"""

from __future__ import annotations

import builtins
import datetime
import json
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

Node = Any
"""A value as JSON."""

MAX_DIGITS = 10_000
"""Characters of a Decimal; more are refused, since reading them takes quadratic time."""
CONTAINERS = (list, dict, set, bytearray, deque)
"""What can be changed in place."""


def _types() -> dict[str, type]:
    own = [value for name, value in vars(builtins).items() if isinstance(value, type) and name[0] != "_"]
    own += [Counter, OrderedDict, defaultdict, deque, Decimal, Fraction]
    own += [datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone]
    return {f"{kind.__module__}.{kind.__qualname__}": kind for kind in own}


TYPES = _types()
"""Types that cross by their name."""


class Unreadable(Exception):
    """A text that is not a value."""


class Containers:
    """The containers of one call, by number, so that both sides can say which one is meant.

    Args:
        growing: whether encoding adds those that it meets; else it only knows them again.
    """

    def __init__(self, *, growing: bool):
        self.objects: list[Any] = []
        self.growing = growing
        self._numbers: dict[int, int] = {}

    def add(self, value: Any) -> int:
        """Its number; it is kept, so that no other one takes its place in memory."""
        self._numbers[id(value)] = len(self.objects)
        self.objects.append(value)
        return len(self.objects) - 1

    def number(self, value: Any) -> int | None:
        """Of one that is known."""
        return self._numbers.get(id(value))


Hold = Callable[[Any], Node]
Find = Callable[[Any], Any]


def encode(value: Any, hold: Hold, known: Containers | None = None) -> Node:
    """The value as JSON.

    Args:
        value: anything. Instances of most subclasses (enumerations of ints, say) become their base type.
        hold: gives the node of an object that is no plain data, or raises.
        known: containers that are named by their number.
    """
    if value is None or value is True or value is False:
        return value
    if known is not None and isinstance(value, CONTAINERS):
        number = known.number(value)
        if number is not None:
            return {"o": number}
        if known.growing:
            return {"o": [known.add(value), content(value, hold, known)]}
    return content(value, hold, known)


def content(value: Any, hold: Hold, known: Containers | None) -> Node:
    """The same for what a value holds, though it may be known itself."""
    if isinstance(value, type) and TYPES.get(f"{value.__module__}.{value.__qualname__}") is value:
        return {"T": f"{value.__module__}.{value.__qualname__}"}
    for base, write in _WRITERS:
        if isinstance(value, base):
            return write(value, hold, known)
    return hold(value)


def _int(value: int, *_: Any) -> Node:
    plain = int(value)
    return plain if -(2**64) < plain < 2**64 else {"i": hex(plain)}


def _items(value: Any, hold: Hold, known: Containers | None) -> list[Node]:
    return [encode(item, hold, known) for item in value]


def _pairs(value: Mapping[Any, Any], hold: Hold, known: Containers | None) -> list[list[Node]]:
    return [[encode(key, hold, known), encode(item, hold, known)] for key, item in value.items()]


def _tuple(value: Any, hold: Hold, known: Containers | None) -> Node:
    fields = getattr(type(value), "_fields", None)
    if isinstance(fields, tuple) and len(fields) == len(value):
        return {"N": [type(value).__name__, list(map(str, fields)), _items(value, hold, known)]}
    return {"t": _items(value, hold, known)}


def _offset(value: datetime.datetime | datetime.time) -> Node:
    offset = value.utcoffset()
    return None if offset is None else offset.total_seconds()


def _date(value: datetime.date) -> list[int]:
    return [value.year, value.month, value.day]


def _time(value: datetime.datetime | datetime.time) -> list[Any]:
    return [value.hour, value.minute, value.second, value.microsecond, _offset(value)]


_WRITERS: tuple[tuple[type, Callable[[Any, Hold, Containers | None], Node]], ...] = (
    (int, _int),
    (float, lambda value, *_: float(value)),
    (str, lambda value, *_: str.__str__(value)),
    (list, _items),
    (tuple, _tuple),
    (Counter, lambda value, *more: {"C": _pairs(value, *more)}),
    (OrderedDict, lambda value, *more: {"O": _pairs(value, *more)}),
    (dict, lambda value, *more: {"d": _pairs(value, *more)}),
    (set, lambda value, *more: {"s": _items(value, *more)}),
    (frozenset, lambda value, *more: {"z": _items(value, *more)}),
    (bytes, lambda value, *_: {"b": value.hex()}),
    (bytearray, lambda value, *_: {"B": value.hex()}),
    (complex, lambda value, *_: {"c": [value.real, value.imag]}),
    (range, lambda value, *_: {"r": [_int(n) for n in (value.start, value.stop, value.step)]}),
    (deque, lambda value, *more: {"q": _items(value, *more)}),
    (Decimal, lambda value, *_: {"D": str(value)}),
    (Fraction, lambda value, *_: {"F": [hex(value.numerator), hex(value.denominator)]}),
    (datetime.datetime, lambda value, *_: {"Z": _date(value) + _time(value)}),
    (datetime.date, lambda value, *_: {"Y": _date(value)}),
    (datetime.time, lambda value, *_: {"H": _time(value)}),
    (datetime.timedelta, lambda value, *_: {"L": [value.days, value.seconds, value.microseconds]}),
    (datetime.timezone, lambda value, *_: {"U": value.utcoffset(None).total_seconds()}),
)


def decode(node: Node, find: Find, known: Containers | None = None) -> Any:
    """The value that a node stands for.

    Args:
        node: parsed JSON, which may have been written by an enemy.
        find: gives the object that is named, or raises.
        known: containers of this message; new ones are added where it is growing.

    Raises:
        Unreadable: it is no value.
    """
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [decode(item, find, known) for item in node]
    if not isinstance(node, dict) or len(node) != 1:
        raise Unreadable("an object without one tag")
    ((tag, held),) = node.items()
    try:
        return _READERS[tag](held, find, known)
    except Unreadable:
        raise
    except Exception as error:  # wrong types below a tag, unhashable members, zero denominators
        raise Unreadable(f"`{tag}`: {type(error).__name__}") from None


def _integer(held: Any, *_: Any) -> int:
    return int(held, 16) if isinstance(held, str) else _plain_integer(held)


def _plain_integer(held: Any) -> int:
    if type(held) is not int:
        raise Unreadable("not an integer")
    return held


def _values(held: Any, find: Find, known: Containers | None) -> list[Any]:
    if not isinstance(held, list):
        raise Unreadable("not a list")
    return [decode(item, find, known) for item in held]


def _entries(held: Any, find: Find, known: Containers | None) -> dict[Any, Any]:
    return {decode(key, find, known): decode(value, find, known) for key, value in held}


def _number(held: Any) -> float:
    if not isinstance(held, float | int):
        raise Unreadable("not a number")
    return float(held)


def _range(held: Any, find: Find, known: Containers | None) -> range:
    start, stop, step = held
    return range(*(decode(part, find, known) for part in (start, stop, step)))


def _decimal(held: Any, *_: Any) -> Decimal:
    if not isinstance(held, str) or len(held) > MAX_DIGITS:
        raise Unreadable("not a Decimal")
    return Decimal(held)


def _named(held: Any, find: Find, known: Containers | None) -> Any:
    name, fields, values = held
    if not all(isinstance(text, str) and len(text) <= 100 for text in (name, *fields)):
        raise Unreadable("no names")
    return _named_tuple(name, tuple(fields))(*_values(values, find, known))


@lru_cache(maxsize=64)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    return namedtuple(name, fields)  # it refuses what is no identifier


def _zone(seconds: Any) -> datetime.timezone | None:
    return None if seconds is None else datetime.timezone(datetime.timedelta(seconds=_number(seconds)))


def _container(held: Any, find: Find, known: Containers | None) -> Any:
    if known is None:
        raise Unreadable("containers have no numbers here")
    if isinstance(held, list):
        number, node = held
        value: Any = _empty(node)
        if not known.growing or known.add(value) != number:
            raise Unreadable("a number out of order")
        refill(value, node, find, known)
        return value
    if not 0 <= _plain_integer(held) < len(known.objects):
        raise Unreadable("no such container")
    return known.objects[held]


_KINDS: dict[str, type] = {"d": dict, "C": Counter, "O": OrderedDict, "s": set, "B": bytearray, "q": deque}


def _empty(node: Node) -> Any:
    return [] if isinstance(node, list) else _KINDS[next(iter(node))]()


def refill(value: Any, node: Node, find: Find, known: Containers | None) -> None:
    """Give a container the content that a node has, in place.

    Raises:
        Unreadable: it is no content of such a container.
    """
    found = decode(node, find, known)
    base = next((kind for kind in CONTAINERS if isinstance(value, kind)), None)
    if base is None or not isinstance(found, base):
        raise Unreadable("the content of another container")
    if isinstance(value, list | bytearray):
        value[:] = found
        return
    value.clear()
    if isinstance(value, deque):
        value.extend(found)
    else:
        value.update(found)


_READERS: dict[str, Callable[[Any, Find, Containers | None], Any]] = {
    "i": _integer,
    "t": lambda held, *more: tuple(_values(held, *more)),
    "N": _named,
    "d": _entries,
    "C": lambda held, *more: Counter(_entries(held, *more)),
    "O": lambda held, *more: OrderedDict(_entries(held, *more)),
    "s": lambda held, *more: set(_values(held, *more)),
    "z": lambda held, *more: frozenset(_values(held, *more)),
    "b": lambda held, *_: bytes.fromhex(held),
    "B": lambda held, *_: bytearray.fromhex(held),
    "c": lambda held, *_: complex(_number(held[0]), _number(held[1])),
    "r": _range,
    "q": lambda held, *more: deque(_values(held, *more)),
    "D": _decimal,
    "F": lambda held, *_: Fraction(_integer(held[0]), _integer(held[1])),
    "Y": lambda held, *_: datetime.date(*held),
    "Z": lambda held, *_: datetime.datetime(*held[:7]).replace(tzinfo=_zone(held[7])),
    "H": lambda held, *_: datetime.time(*held[:4]).replace(tzinfo=_zone(held[4])),
    "L": lambda held, *_: datetime.timedelta(*map(_plain_integer, held)),
    "U": lambda held, *_: _zone(held),
    "T": lambda held, *_: TYPES[held],
    "h": lambda held, find, *_: find(held),
    "o": _container,
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
