"""DROP's answers of several spans: how they are read, cut, aligned and scored."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rethink.eval.benchmark import SchemaError
from rethink.eval.benchmarks.readers import read_drop
from rethink.eval.grading.drop import best_alignment, drop_scores, split_spans
from tests.paths import SHARED_DATA

CASES = SHARED_DATA / "cases" / "drop-punctuation.jsonl"


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "f1"),
    [
        ("Tom Brady and Ed Reed", [["Tom Brady", "Ed Reed"]], 1.0, 1.0),
        ("Ed Reed, Tom Brady", [["Tom Brady", "Ed Reed"]], 1.0, 1.0),  # in any order
        ("Ed Reed", [["Tom Brady", "Ed Reed"]], 0.0, 0.5),  # one of two
        ("Ed Reed; Tom Brady; Ray Lewis", [["Tom Brady", "Ed Reed"]], 0.0, 0.67),  # one too many
        ("Brady, Ed Reed", [["Tom Brady", "Ed Reed"]], 0.0, 0.83),  # (2/3 + 1) / 2
        ("Ed Reed", [["Tom Brady", "Ed Reed"], "Ed Reed"], 1.0, 1.0),  # the best over the accepted answers
        ("4 yards and 5 yards", [["5-yard", "4-yard"]], 0.0, 0.5),  # numbers must agree span by span
        ("Smith, Jr.; Reed", [["Reed", "Smith, Jr."]], 1.0, 1.0),
        ("Smith, Jr. and Reed", ["Smith, Jr. and Reed"], 1.0, 1.0),  # one span is never cut
    ],
)
def test_several_spans(answer: str, golds: list[str | list[str]], exact: float, f1: float) -> None:
    assert drop_scores(answer, golds) == (exact, f1)


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("3.14.", "3.14", 1.0),
        ("(2.5)", "2.5", 1.0),
        ("“2.5”", "2.5", 1.0),
        ("**2.5**,", "2.5", 1.0),
        ("$3,000.50", "3000.5", 1.0),
        ("30005", "3,000.5", 0.0),
        (".5", "0.5", 1.0),
        ("5...", "5", 1.0),
        ("−5", "-5", 1.0),
        ("(-$5)", "-5", 1.0),
        ("5", "-5", 0.0),
        ("-5", "5", 0.0),
        ("25", "2.5", 0.0),
        ("4‐yard", "4 yards", 0.5),
        ("1995–1996", "1995-1996", 1.0),
        ("10\n\nPassage: The 2011 census", "10", 1.0),
        ("11\n\nPassage: 10", "10", 0.0),
        ("10\u00a0yards", "10 yards", 1.0),
        ("“Tom Brady”.", "Tom Brady", 1.0),
        ("Brady", "Tom Brady", 0.67),
        ("12345678901234567890", "12345678901234567891", 0.0),
        ("1e400", "1e500", 0.0),
        ("１０", "10", 1.0),
    ],
)
def test_punctuation(answer: str, gold: str, f1: float) -> None:
    assert drop_scores(answer, [gold]) == (float(f1 == 1), f1)


def test_spans_on_lines_of_their_own() -> None:
    assert drop_scores("Ed Reed\nTom Brady\n\nPassage: Ray Lewis", [["Tom Brady", "Ed Reed"]]) == (1.0, 1.0)


@settings(max_examples=50)
@given(st.text(max_size=60), st.text(max_size=60))
def test_scores_lie_between_none_and_all(answer: str, gold: str) -> None:
    exact, f1 = drop_scores(answer, [gold])
    assert exact in (0, 1)
    assert 0 <= f1 <= 1


@pytest.mark.skipif(not CASES.exists(), reason=f"{CASES} is not there")
def test_reported_cases() -> None:
    for line in CASES.read_text("utf-8").splitlines():
        row = json.loads(line)
        assert drop_scores(row["answer"], row["golds"])[1] == row["expected"], row["id"]


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("a, b and c", ["a", "b", "c"]),
        ("a, b, and c", ["a", "b", "c"]),
        ("a, b; c and d", ["a, b", "c and d"]),
        ("sand, band", ["sand", "band"]),
        (" , ", [" , "]),
    ],
)
def test_cutting(answer: str, spans: list[str]) -> None:
    assert split_spans(answer) == spans


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1), st.booleans())
def test_alignment_is_the_best(rows: int, columns: int, seed: int, coarse: bool) -> None:
    values = np.random.default_rng(seed).random((rows, columns))
    values = values.round(1) if coarse else values
    best = values[linear_sum_assignment(values, maximize=True)].sum()
    assert best_alignment(values.tolist()) == pytest.approx(best)


def row(**answers: Any) -> dict[str, Any]:
    return {"passage": "p", "question": "q", **answers}


NOTHING: dict[str, Any] = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}


@pytest.mark.parametrize(
    ("answers", "read", "shown"),
    [
        ({"answers_spans": {"spans": ["a", "b", "a"], "types": ["span"] * 3}}, ["a", "b"], "a | b"),
        ({"answers": [["a ", "b"], "c", ["a", "b"]]}, [["a", "b"], "c"], "a, b | c"),
        ({"answer": "a"}, ["a"], "a"),
        (
            {"answer": NOTHING | {"spans": ["a", "b"]}, "validated_answers": [NOTHING | {"number": "3"}, NOTHING]},
            [["a", "b"], "3"],
            "a, b | 3",
        ),
        ({"answer": {"number": None, "date": None, "spans": ["a"]}}, ["a"], "a"),
        ({"answer": {"number": None, "date": None, "spans": None}, "validated_answers": [{"number": 3}]}, ["3"], "3"),
        (
            {
                "answer": NOTHING | {"date": {"day": "4", "month": "July", "year": ""}},
                "validated_answers": {"number": ["", "4"], "date": [{}, {}], "spans": [["July 4"], []]},
            },
            ["4 July", "July 4", "4"],
            "4 July | July 4 | 4",
        ),
    ],
)
def test_accepted_answers_are_read(answers: dict[str, Any], read: list[Any], shown: str) -> None:
    found = read_drop(row(**answers))
    assert (found.metadata["answers"], found.answer) == (read, shown)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"answers": []},
        {"answers": [[]]},
        {"answers": [["a", 3]]},
        {"answers": [" "]},
        {"answer": NOTHING},
        {"answer": NOTHING, "validated_answers": ["a"]},
        {"answers_spans": {"types": []}},
    ],
)
def test_what_cannot_be_read_is_refused(answers: dict[str, Any]) -> None:
    with pytest.raises(SchemaError):
        read_drop(row(**answers))
