"""Reading answers: the gold of a data set, and the answer in a completion. Every search is linear in the text."""

from __future__ import annotations

import re
from typing import Literal

GoldFormat = Literal["auto", "gsm8k", "boxed", "plain"]

_BOXES = ("\\boxed", "\\fbox")
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")
# One quantified class after another, none nested: a match never backtracks over more than one of them.
_NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")


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
    r"""The content of the last `\boxed{…}` (or `\fbox{…}`) whose braces close; None without one.

    A box without braces (`\boxed 7`) holds the next character sequence up to white space or `$` where it begins with
    a digit.
    """
    # Boxes are tried from the last backwards; each scan ends where the next box tried before it began.
    end = len(text)
    places = dict.fromkeys(_BOXES, end)
    while end > 0:
        for box, place in places.items():
            if place >= end:  # a spelling that stands further ahead is not looked for again
                places[box] = text.rfind(box, 0, end)
        start = max(places.values())
        if start < 0:
            return None
        after = start + (6 if text.startswith(_BOXES[0], start) else 5)
        content = _braced(text, after, end)
        if content is not None:
            return content
        end = start
    return None


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
    end, first = len(text), -1
    while len(found) < MAX_BOXES:
        place = _last_box(text, end)
        if place is None:
            break
        start, stop, content = place
        if found and not _BETWEEN_BOXES.fullmatch(text, stop, end):
            break
        found.insert(0, content)
        first = max(first, start)
        end = start
    return (first, ", ".join(found)) if found else None


def _last_box(text: str, end: int) -> tuple[int, int, str] | None:
    """(start, end, content) of the last whole box before `end`."""
    limit = end
    while limit > 0:
        start = max(text.rfind(box, 0, limit) for box in _BOXES)
        if start < 0:
            return None
        after = start + (6 if text.startswith(_BOXES[0], start) else 5)
        content = _braced(text, after, end)
        if content is not None:
            stop = text.index(content, after) + len(content)
            return start, stop + (text[stop : stop + 1] == "}"), content
        end = limit = start  # a box that does not close: what stands before it is searched, and nothing twice
    return None


def _braced(text: str, start: int, end: int) -> str | None:
    while start < end and text[start].isspace():
        start += 1
    if start < end and text[start].isdigit():
        stop = start
        while stop < end and not (text[stop].isspace() or text[stop] == "$"):
            stop += 1
        return text[start:stop]
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
                return text[start + 1 : place]
    return None


def last_number(text: str) -> str | None:
    """The last number in the text as it is written (sign, commas, decimals, `a/b`); None without one."""
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if found is None:
        return None
    number = found.group().rstrip(",")
    before = text[found.start() - 1 : found.start()]
    # A minus sign between digits or letters is a difference or a hyphen: "5-3", "year-2000".
    return number[1:] if number.startswith("-") and (before.isalnum() or before == ")") else number
