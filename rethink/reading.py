"""Reading of untrusted files: with bounds on size and depth, and never from a pipe or a device."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DEEPEST = 100
"""Levels of a value; what people write has ten."""


def check_regular_file(path: Path, most_bytes: int) -> None:
    """Raise where a path is no file proper, or too large.

    Raises:
        OSError: there is nothing, or it cannot be looked at.
        ValueError: it is a pipe, socket, device or folder, or has more than `most_bytes`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > most_bytes:
        raise ValueError(f"it has {status.st_size:,} bytes, and {most_bytes:,} are allowed")


def read_bounded_text(path: Path, most_bytes: int) -> str:
    """The text of a regular file in UTF-8.

    Raises:
        OSError: there is nothing, or it cannot be read.
        ValueError: as `check_regular_file`, or it is not UTF-8.
    """
    check_regular_file(path, most_bytes)
    # Without waiting, should the file have become a pipe meanwhile.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than the {most_bytes:,} bytes that are allowed")
    return data.decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, nested more than `DEEPEST` levels, or holds half a surrogate pair.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_value(value)
    return value


def check_value(value: Any) -> None:
    """Refuse a value of JSON's kinds that is too deep, or whose texts cannot be written as UTF-8.

    Raises:
        ValueError: it is nested more than `DEEPEST` levels, or holds half a surrogate pair.
    """
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not item.isascii():
                    _check_text(item)
            elif isinstance(item, dict):
                below += item
                below += item.values()
            elif isinstance(item, list):
                below += item
        level = below
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a text in it holds half a surrogate pair (\\u{ord(text[error.start]):04x}), which is no character"
        ) from None


Parts = Callable[[Any], tuple[int, Iterable[Any]]]
"""Of an item its own size and the items in it."""


def check_expanded(item: Any, parts: Parts, most: int, known: dict[int, tuple[Any, int, int]]) -> tuple[int, int]:
    """Refuse what is small as it is written and huge once every reference in it is followed.

    Args:
        item: a value whose parts may be shared.
        parts: how to look into it.
        most: the largest size.
        known: what was measured before, by identity: (item, size, depth).

    Returns:
        Its size with every shared part counted as often as it is used, and its depth.

    Raises:
        ValueError: it is larger than `most`, nested more than `DEEPEST` levels, or within itself.
    """
    if id(item) in known:
        _, size, depth = known[id(item)]
        if depth < 0:
            raise ValueError("it has a cyclic reference, to what it is within")
        return size, depth
    size, inner = parts(item)
    depth = 0
    known[id(item)] = (item, 0, -1)
    for part in inner:
        more, below = check_expanded(part, parts, most, known)
        size, depth = size + more, max(depth, below + 1)
        if size > most:
            raise ValueError(f"it has more than {most:,} letters once every reference in it is followed")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    known[id(item)] = (item, size, depth)
    return size, depth


def parts_of_value(value: Any) -> tuple[int, Iterable[Any]]:
    """`Parts` of a value of JSON's kinds."""
    if isinstance(value, dict):
        return 1, [*value, *value.values()]
    if isinstance(value, list | tuple):
        return 1, value
    return 1 + (len(value) if isinstance(value, str) else 0), ()
