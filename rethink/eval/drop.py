"""DROP's metric (Dua et al., 2019, arXiv 1903.00161): bags of normalised tokens, and answers of several spans.

Spans that were found are aligned with those of the gold one to one, so that the sum of their F1 is the largest; the
answer's F1 is that sum over the larger number of spans.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

Gold = str | Sequence[str]
"""An accepted answer: one span, or several that belong together."""

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SPLIT = re.compile(r"[ \-]")
_BETWEEN = re.compile(r",(?:\s{0,8}and\s)?|\sand\s")


def normal_tokens(text: str) -> list[str]:
    """DROP's normal form: lower case, no articles, no punctuation except in numbers, numbers as floats."""
    tokens = []
    for piece in _SPLIT.split(text):
        word = piece.lower()
        if not _is_number(word):
            word = "".join(char for char in word if char not in string.punctuation)
        word = str(float(word)) if _is_number(word) else word
        tokens.append(" ".join(_ARTICLES.sub(" ", word).split()))
    return [token for token in tokens if token.strip()]


def drop_scores(answer: str, golds: Sequence[Gold]) -> tuple[float, float]:
    """(exact match, F1), each the best over the accepted answers.

    Where the gold's span holds numbers, one of them must be in the span that was found. An answer is one span, except
    against a gold of several: then it is cut at semicolons, or, where it has none, at commas and "and".
    """
    exact, f1 = 0.0, 0.0
    for gold in golds:
        spans = [gold] if isinstance(gold, str) else list(gold)
        found = [normal_tokens(span) for span in ([answer] if len(spans) == 1 else split_spans(answer))]
        wanted = [normal_tokens(span) for span in spans]
        same = sorted(map(" ".join, found)) == sorted(map(" ".join, wanted))
        exact = max(exact, float(same))
        f1 = max(f1, _aligned_f1([set(span) for span in found], [set(span) for span in wanted]))
    return exact, round(f1, 2)


def split_spans(answer: str) -> list[str]:
    """The spans that an answer lists."""
    parts = answer.split(";") if ";" in answer else _BETWEEN.split(answer)
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
    numbers = {token for token in wanted if _is_number(token)}
    if numbers and not numbers & {token for token in found if _is_number(token)}:
        return 0.0
    common = len(found & wanted)
    precision = common / len(found) if found else 1.0
    recall = common / len(wanted) if wanted else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return len(word) <= 100
