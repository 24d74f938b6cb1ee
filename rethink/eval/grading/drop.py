"""DROP's metric (Dua et al., 2019, arXiv 1903.00161): bags of normalised tokens, and answers of several spans.

Spans that were found are aligned with those of the gold one to one, so that the sum of their F1 is the largest; the
answer's F1 is that sum over the larger number of spans.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from decimal import Context

Gold = str | Sequence[str]
"""An accepted answer: one span, or several that belong together."""

MAX_NUMBER = 100
"""Characters of a number; longer ones are words."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# A hyphen parts words; before a number that nothing precedes it is a sign.
_SPLIT = re.compile(r"\s+|(?<=[^\s(\[“\"$€£])[-‐‑–—―−]|[-‐‑–—―−](?![\d.,$€£])")
_BETWEEN = re.compile(r",(?:\s{0,8}and\s)?|\sand\s|\n")
_NUMBER = re.compile(
    r"[^\w\s.-]*(-?)[^\w\s.-]*((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d{1,3})?|\.\d+)[^\w\s]*", re.ASCII
)
_NEXT_PASSAGE = re.compile(r"\n\s*\n|\n(?=(?:passage|question|answer|[pqa])\s{0,4}:)", re.IGNORECASE)
_ONE_SPELLING = str.maketrans(
    dict.fromkeys("‐‑–—―−", "-") | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
)
_PRECISE = Context(prec=MAX_NUMBER)


def normal_tokens(text: str) -> list[str]:
    """DROP's normal form: lower case, no articles, no punctuation except in numbers, numbers by their value.

    Unlike the original, punctuation around a number is none of it (`3.14.`, `(2.5)`), `1,000.5` is a number, and a sign
    counts: -5 is not 5.
    """
    tokens = []
    for piece in _SPLIT.split(text.strip()):
        word = piece.lower().translate(_ONE_SPELLING)
        number = _number(word)
        if number is None:
            word = "".join(char for char in word if not _is_punctuation(char))
            number = _number(word)
        tokens.append(" ".join(_ARTICLES.sub(" ", word).split()) if number is None else number)
    return [token for token in tokens if token.strip()]


def _number(word: str) -> str | None:
    """One spelling of the number that a word is, without currency, percent and punctuation around it."""
    found = _NUMBER.fullmatch(word) if len(word) <= MAX_NUMBER else None
    if found is None:
        return None
    return str(_PRECISE.create_decimal(found.group(1) + found.group(2).replace(",", "")).normalize(_PRECISE))


def _numbers(tokens: set[str]) -> set[str]:
    return {token for token in tokens if _number(token) is not None}


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith(("P", "Sc"))


def drop_scores(answer: str, golds: Sequence[Gold]) -> tuple[float, float]:
    """(exact match, F1), each the best over the accepted answers.

    Where the gold's span holds numbers, one of them must be in the span that was found. An answer is one span, except
    against a gold of several: then it is cut at semicolons, or, where it has none, at commas and "and".
    """
    exact, f1 = 0.0, 0.0
    for gold in golds:
        spans = [gold] if isinstance(gold, str) else list(gold)
        found = [normal_tokens(span) for span in (_first_line(answer) if len(spans) == 1 else split_spans(answer))]
        wanted = [normal_tokens(span) for span in spans]
        same = sorted(map(" ".join, found)) == sorted(map(" ".join, wanted))
        exact = max(exact, float(same))
        f1 = max(f1, _aligned_f1([set(span) for span in found], [set(span) for span in wanted]))
    return exact, round(f1, 2)


def _first_line(answer: str) -> list[str]:
    """A span is one line: what follows is another passage or question that the model went on to write."""
    return answer.strip().splitlines()[:1] or [answer]


def split_spans(answer: str) -> list[str]:
    """The spans that an answer lists."""
    own = _NEXT_PASSAGE.split(answer.strip(), maxsplit=1)[0]
    parts = own.split(";") if ";" in own else _BETWEEN.split(own)
    return [part.strip() for part in parts if part.strip()] or [answer]


def _aligned_f1(found: list[set[str]], wanted: list[set[str]]) -> float:
    values = [[_bag_f1(one, other) for other in wanted] for one in found]
    return best_alignment(values) / max(len(found), len(wanted))


def best_alignment(values: Sequence[Sequence[float]]) -> float:
    """The largest sum of values over pairs of a row and a column, each taken once at most: the Hungarian method.

    Rows are added one by one; each takes the cheapest augmenting path (costs are negative values), found as in
    Dijkstra's method with the potentials of rows and columns. O(rows² · columns).
    """
    if len(values) > len(values[0]):
        values = list(zip(*values, strict=True))
    rows, columns = len(values), len(values[0])
    row_of = [-1] * (columns + 1)  # the last column is where each new row starts
    u, v = [0.0] * rows, [0.0] * (columns + 1)
    for row in range(rows):
        row_of[columns], column = row, columns
        slack, before, done = [float("inf")] * columns, [columns] * columns, [False] * (columns + 1)
        while row_of[column] >= 0:
            done[column], here = True, row_of[column]
            for other in range(columns):
                cost = -values[here][other] - u[here] - v[other]
                if not done[other] and cost < slack[other]:
                    slack[other], before[other] = cost, column
            nearest = min((other for other in range(columns) if not done[other]), key=slack.__getitem__)
            step = slack[nearest]
            for other in range(columns + 1):
                if done[other]:
                    u[row_of[other]] += step
                    v[other] -= step
                elif other < columns:
                    slack[other] -= step
            column = nearest
        while column != columns:
            row_of[column] = row_of[before[column]]
            column = before[column]
    return sum(values[row][column] for column, row in enumerate(row_of[:columns]) if row >= 0)


def _bag_f1(found: set[str], wanted: set[str]) -> float:
    numbers = _numbers(wanted)
    if numbers and not numbers & _numbers(found):
        return 0.0
    common = len(found & wanted)
    precision = common / len(found) if found else 1.0
    recall = common / len(wanted) if wanted else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
