"""Values as plain data: what is sent arrives as it was, and nothing else can be made to arrive."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter, OrderedDict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.rewards.sandbox.inside import wire

PLAIN = (bool, int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, complex, range, deque)

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
values = st.recursive(
    hashable | st.builds(range, st.integers(-9, 9)) | st.builds(bytearray, st.binary()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
        | st.builds(deque, st.lists(inner, max_size=3))
    ),
    max_leaves=12,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list("itdszbBcrqDFhx")), inner, max_size=2)
    ),
    max_leaves=15,
)


def refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is not plain")


def there_and_back(value: Any) -> Any:
    return wire.decode(wire.loads(wire.dumps(wire.encode(value, refuse))), refuse)


@given(values)
def test_values_arrive_as_they_were(value: Any) -> None:
    assert repr(there_and_back(value)) == repr(value) or there_and_back(value) == value
    assert type(there_and_back(value)) is type(value)


@given(json_values)
def test_any_text_is_read_as_plain_values_or_refused(node: Any) -> None:
    try:
        value = wire.decode(node, lambda number: None)
    except wire.Unreadable:
        return
    assert value is None or type(value) in (*PLAIN, Decimal, Fraction)


def test_special_numbers() -> None:
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert math.copysign(1, there_and_back(-0.0)) == -1
    for number in (2**64, -(2**64), 10**5000):
        assert there_and_back(number) == number
    assert there_and_back(True) is True
    assert type(there_and_back(1)) is int
    assert there_and_back("\ud800\0") == "\ud800\0"


def test_subclasses_become_their_base() -> None:
    class Grade(enum.IntEnum):
        GOOD = 3

    Point = namedtuple("Point", "x y")
    for value, kind in ((Grade.GOOD, int), (Point(1, 2), tuple), (Counter("ab"), dict), (OrderedDict(a=1), dict)):
        assert type(there_and_back(value)) is kind
        assert there_and_back(value) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"x":1}',
        b'{"t":[],"s":[]}',
        b"{}",
        b'{"s":[[]]}',
        b'{"d":[[[],1]]}',
        b'{"d":3}',
        b'{"F":[1,0]}',
        b'{"r":[0,1,0]}',
        b'{"i":3.5}',
        b'{"i":"x"}',
        b'{"b":"xyz"}',
        b'{"D":"one"}',
        b'{"D":"' + b"9" * 20_000 + b'"}',
        b'{"c":["1","2"]}',
        b'{"h":"0"}',
        b'{"h":9}',
        b'{"t":"ab"}',
        b"9" * 5000,
        b"\xff",
    ],
)
def test_bad_texts_are_refused(text: bytes) -> None:
    with pytest.raises(wire.Unreadable):
        wire.decode(wire.loads(text), [None].__getitem__)


def test_deep_values_end_in_an_error_of_ours() -> None:
    text = b'{"t":[' * 60 + b"]}" * 60
    assert wire.decode(wire.loads(text), refuse)
    with pytest.raises((wire.Unreadable, RecursionError)):
        wire.decode(wire.loads(b'{"t":[' * 20_000 + b"]}" * 20_000), refuse)


def test_other_objects_are_held_back() -> None:
    held: list[Any] = []

    def hold(value: Any) -> Any:
        held.append(value)
        return {"h": len(held) - 1}

    thing = object()
    node = json.loads(wire.dumps(wire.encode([thing, (thing,)], hold)))
    assert wire.decode(node, held.__getitem__) == [thing, (thing,)]
    with pytest.raises(TypeError):
        wire.encode([thing], refuse)
