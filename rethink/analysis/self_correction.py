"""Self-correction: statements before and after a marker of reflection, as far as they can be checked. Pure functions of
texts, linear in them.

Two kinds of statement can be checked:

- *answer*: a number stated as the answer ("the answer is 12", `\\boxed{12}`, `<answer>12</answer>`), right if it
  equals the gold answer; only for gold answers that are plain numbers.
- *equation*: a sum of plain numbers and its result ("7 + 8 = 14"), right if the arithmetic is right, with or
  without a gold answer.

A *self-correction attempt* is two consecutive statements of the same thing (two answers, or the same left side twice)
with a marker (`reflection.MARKERS`) between them. It is `corrected` if the first is wrong and the second right,
`spoiled` the other way round, else `still right` or `still wrong`. A correction in other words, of another form of
the same sum, or without a marker is not found, so the counts are lower bounds.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from rethink.analysis.reflection import markers

Outcome = Literal["corrected", "spoiled", "still right", "still wrong"]
OUTCOMES: tuple[Outcome, ...] = ("corrected", "spoiled", "still right", "still wrong")
LOOKED_AT = 50_000
"""Characters of a completion that are examined."""
AROUND = 120
"""Characters that an example shows before and after."""
LONGEST_EXAMPLE = 900
MOST_EXAMPLES = 5

_NUMBER = r"-?\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,9})?"
# No digit may follow, and no term: "the answer is 5 + 3" states no number, "14 - wait" does.
_END = r"(?!\d|[.,]\d|\s{0,2}[-+*/×÷·−=^]\s{0,2}-?(?:\d|[(\\]|[A-Za-z]\b))"
_CUE = (
    r"(?:\b(?:answer|result|réponse|résultat|respuesta|resultado|antwort|ergebnis|ответ|результат)\b"
    r"|答案|结果|結果|答え|الجواب|الإجابة|النتيجة)"
    r"[\s*]{0,4}(?:\b(?:is|are|would be|should be|est|es|ist|lautet)\b|是|为|は|هو|هي|—)?[\s*:：=$]{0,6}"
)
_ANSWER = re.compile(
    rf"(?:{_CUE})(?:\\boxed\{{\s{{0,3}})?({_NUMBER}){_END}"
    rf"|\\boxed\{{\s{{0,3}}({_NUMBER})\s{{0,3}}\}}"
    rf"|<answer>\s{{0,5}}({_NUMBER})\s{{0,5}}</answer>",
    re.IGNORECASE,
)
_TERM = r"\d{1,9}(?:\.\d{1,6})?"
_EQUATION = re.compile(
    rf"(?<![\w.,])({_TERM}(?:\s{{0,2}}[-+*/×÷·−]\s{{0,2}}{_TERM}){{1,12}})\s{{0,2}}=\s{{0,2}}([-−]?\d{{1,12}}(?:\.\d{{1,6}})?){_END}"
)
_TOKEN = re.compile(rf"{_TERM}|[-+*/]")
_SAME = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})
_GOLD = re.compile(_NUMBER)
_PART_OF_MORE = tuple("+-*/×÷·−^%$([{)]}\\")


@dataclass(frozen=True, slots=True)
class SelfCorrection:
    """Two statements of the same thing, a marker between them."""

    kind: Literal["answer", "equation"]
    marker: str
    """The last one between them."""
    before: str
    """The first statement, as written."""
    after: str
    was_right: bool
    is_right: bool
    start: int
    """Of the first statement in the text."""
    end: int
    """Of the second."""

    @property
    def outcome(self) -> Outcome:
        """One of `OUTCOMES`."""
        if self.was_right:
            return "still right" if self.is_right else "spoiled"
        return "corrected" if self.is_right else "still wrong"


@dataclass(frozen=True, slots=True)
class _Statement:
    key: str
    right: bool
    text: str
    start: int
    end: int


def self_corrections(text: str, gold: str | None) -> list[SelfCorrection]:
    """Every self-correction attempt in a completion that can be checked, in order.

    Args:
        text: the completion.
        gold: the gold answer; None, or no plain number: only equations are checked.
    """
    text = text[:LOOKED_AT]
    marks = markers(text)
    if not marks:
        return []
    starts = [mark[0] for mark in marks]
    last: dict[str, _Statement] = {}
    found = []
    for said in sorted([*_answers(text, gold), *_equations(text)], key=lambda statement: statement.end):
        before = last.get(said.key)
        place = bisect_left(starts, said.start) - 1  # the last marker that begins before this statement
        if before is not None and place >= 0 and starts[place] >= before.end:
            found.append(
                SelfCorrection(
                    "equation" if said.key else "answer", marks[place][2], before.text, said.text, before.right,
                    said.right, before.start, said.end,
                )
            )  # fmt: skip
        last[said.key] = said
    return found


def _answers(text: str, gold: str | None) -> Iterator[_Statement]:
    wanted = _value(gold.strip()) if gold is not None and _GOLD.fullmatch(gold.strip()) else None
    if wanted is None:
        return
    for found in _ANSWER.finditer(text):
        number = next(group for group in found.groups() if group is not None)
        yield _Statement("", _value(number) == wanted, found.group().strip(), found.start(), found.end())


def _equations(text: str) -> Iterator[_Statement]:
    for found in _EQUATION.finditer(text):
        if text[max(0, found.start() - 4) : found.start()].rstrip().endswith(_PART_OF_MORE):
            continue  # the tail of a longer term: the text before changes its value
        left = "".join(found[1].translate(_SAME).split())
        value = _arithmetic(left)
        if value is not None:
            right = value == _value(found[2].translate(_SAME))
            yield _Statement(left, right, found.group(), found.start(), found.end())


def _value(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _arithmetic(left: str) -> Fraction | None:
    """The value of numbers with + - * / between them; None for a division by zero."""
    tokens = _TOKEN.findall(left)
    total, factor, sign = Fraction(0), Fraction(tokens[0]), 1
    for operator, term in zip(tokens[1::2], tokens[2::2], strict=True):
        number = Fraction(term)
        if operator == "*":
            factor *= number
        elif operator == "/":
            if not number:
                return None
            factor /= number
        else:
            total, factor, sign = total + sign * factor, number, 1 if operator == "+" else -1
    return total + sign * factor


# --- of many completions --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Counts:
    """Self-correction attempts in some completions."""

    completions: int = 0
    marked: int = 0
    """With a marker."""
    checked: int = 0
    """With an attempt that can be checked."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Attempts by outcome."""
    corrected: int = 0
    """Completions in which a wrong statement became right."""
    examples: list[str] = field(default_factory=list)
    """Passages in which one did, at most `MOST_EXAMPLES`."""


def count(completions: Iterable[tuple[str, str | None]]) -> Counts:
    """Counts over completions, each with its gold answer."""
    counts = Counts()
    for text, gold in completions:
        found = self_corrections(text, gold)
        counts.completions += 1
        counts.marked += bool(markers(text))
        counts.checked += bool(found)
        counts.outcomes.update(each.outcome for each in found)
        corrected = [each for each in found if each.outcome == "corrected"]
        counts.corrected += bool(corrected)
        if corrected and len(counts.examples) < MOST_EXAMPLES:
            counts.examples.append(passage(text, corrected[0]))
    return counts


def passage(text: str, found: SelfCorrection) -> str:
    """The part of a text with an attempt; if it is long, its middle is left out."""
    start, end = max(0, found.start - AROUND), min(len(text), found.end + AROUND)
    shown = text[start:end]
    if len(shown) > LONGEST_EXAMPLE:
        half = LONGEST_EXAMPLE // 2
        shown = f"{shown[:half]} […] {shown[-half:]}"
    return ("… " if start else "") + shown.strip() + (" …" if end < len(text) else "")
