"""Values as plain data: what is sent arrives as it was, and nothing else can be made to arrive."""

from __future__ import annotations

import datetime
import enum
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.rewards.sandbox.inside import wire

PLAIN = (bool, int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, complex, range, deque)
DATES = (datetime.date, datetime.time, datetime.timedelta, datetime.timezone)

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
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(list("itdszbBcrqDFhxoCONYZHLUT")), inner, max_size=2)
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
    assert value is None or isinstance(value, (*PLAIN, *DATES, type)) or type(value) in (Decimal, Fraction)


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

    class Text(str):
        pass

    for value, kind in ((Grade.GOOD, int), (Text("a"), str), (defaultdict(list, a=1), dict)):
        assert type(there_and_back(value)) is kind
        assert there_and_back(value) == value


def test_types_of_the_library() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-5))
    for value in (
        Counter("aab"),
        OrderedDict(b=1, a=2),
        datetime.date(2020, 1, 2),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, zone),
        datetime.time(1, 2, 3, 4),
        datetime.timedelta(-1, 2, 3),
        zone,
        int,
        Fraction,
    ):
        assert (there_and_back(value), type(there_and_back(value))) == (value, type(value))
    point = there_and_back(namedtuple("Point", "x y")(1, 2))
    assert (point, point.x, type(point).__name__) == ((1, 2), 1, "Point")


def test_containers_that_are_named_keep_their_identity() -> None:
    inner: list[Any] = [1]
    value = [inner, inner, {"a": inner}]
    value.append(value)
    known, here = wire.Containers(growing=True), wire.Containers(growing=True)
    node = json.loads(wire.dumps(wire.encode(value, refuse, known)))
    found = wire.decode(node, refuse, here)
    assert found[0] is found[1] is found[2]["a"]
    assert found[3] is found
    found[0].append(2)
    here.growing = known.growing = False
    for number, changed in enumerate(here.objects):
        wire.refill(known.objects[number], wire.content(changed, refuse, here), refuse, known)
    assert inner == [1, 2]
    assert value[0] is inner
    assert value[3] is value
    for bad in ({"o": 9}, {"o": -1}, {"o": [9, []]}, {"o": "x"}):
        with pytest.raises(wire.Unreadable):
            wire.decode(bad, refuse, known)
    with pytest.raises(wire.Unreadable):
        wire.refill([], {"d": []}, refuse, known)


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
        b'{"T":"os.system"}',
        b'{"T":["int"]}',
        b'{"N":["P",["x","__init__"],[1,2]]}',
        b'{"N":["P",["x=print(1)"],[1]]}',
        b'{"Y":[2020,13,1]}',
        b'{"U":1e9}',
        b'{"o":0}',
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
