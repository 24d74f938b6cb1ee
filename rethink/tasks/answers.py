"""Reading answers: the gold of a data set, and the answer in a completion. Every search is linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from rethink.tasks.last_value import last_value

GoldFormat = Literal["auto", "gsm8k", "boxed", "plain"]

_BOXES = ("\\boxed", "\\fbox")
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")

last_number = last_value
"""What the rule `last-number` finds."""


def read_gold(value: object, how: GoldFormat) -> str | None:
    """The gold answer that a data set's field holds; None where it cannot be read.

    `gsm8k`: what follows the last `####`, commas between digits removed; `boxed`: the content of the last `\\boxed{}`;
    `plain`: the field itself; `auto`: the first of these whose mark occurs. Numbers are taken as they are written.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    if how == "gsm8k" or (how == "auto" and "####" in text):
        _, mark, tail = text.rpartition("####")
        answer = _DIGIT_COMMA.sub("", tail.strip(" \t\r\n:#")) if mark else ""
    elif how == "boxed" or (how == "auto" and any(box in text for box in _BOXES)):
        answer = (last_boxed(text) or "").strip()
    else:
        answer = text.strip()
    return answer or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` (or `\fbox{…}`) whose braces close and that is not empty; None without one.

    A box without braces (`\boxed 7`) holds the next character sequence up to white space or `$` where it begins with
    a digit. Where all boxes are empty, the last one's content.
    """
    empty: str | None = None
    for _, _, content in _boxes(text):
        if not is_blank(content):
            return content
        empty = content if empty is None else empty
    return empty


_BLANK = re.compile(
    r"(?:[\s~_…{}]|\.\.|\.|\\[,;:!\s]|\\(?:q?quad|[lc]?dots|text)(?![A-Za-z])|\\[hv]?phantom\{[^{}]*+\})*+"
)


def is_blank(content: str) -> bool:
    r"""Whether a box holds nothing, as in "put the answer in `\boxed{}`" or `\boxed{...}`."""
    return _BLANK.fullmatch(content) is not None


_BETWEEN_BOXES = re.compile(
    r"(?:[\s,;.$~]|\\\\|\\[,;:! ()\[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b){1,60}"
)
MAX_BOXES = 12
"""Boxes in a row that are read as one list."""


def boxed_list(text: str) -> tuple[int, str] | None:
    r"""Where the last box begins and what it holds; None without one.

    Boxes with nothing but "and", commas and space between them are one list: `\\boxed{1} and \\boxed{2}` -> `1, 2`.
    """
    found: list[str] = []
    first = end = -1
    for start, stop, content in _boxes(text):
        if found and (len(found) == MAX_BOXES or not _BETWEEN_BOXES.fullmatch(text, stop, end)):
            break
        end = start
        if not is_blank(content):
            found.insert(0, content)
            first = max(first, start)
    return (first, ", ".join(found)) if found else None


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, content) of the boxes that close, from the last one back. Nothing is scanned twice."""
    end = limit = len(text)
    places = dict.fromkeys(_BOXES, limit)
    while True:
        for box, place in places.items():
            if place >= limit:  # a spelling that is further ahead is not searched again
                places[box] = text.rfind(box, 0, limit)
        start = max(places.values())
        if start < 0:
            return
        after = start + (6 if text.startswith(_BOXES[0], start) else 5)
        found = _braced(text, after, end)
        if found is not None:
            yield start, found[1], found[0]
        end = limit = start


def _braced(text: str, start: int, end: int) -> tuple[str, int] | None:
    """What the braces after a box's name hold, and where the box ends."""
    while start < end and text[start].isspace():
        start += 1
    if start < end and text[start].isdigit():
        stop = start
        while stop < end and not (text[stop].isspace() or text[stop] == "$"):
            stop += 1
        return text[start:stop], stop
    if start >= end or text[start] != "{":
        return None
    depth = 0
    for place in range(start, end):
        char = text[place]
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[start + 1 : place], place + 1
    return None
