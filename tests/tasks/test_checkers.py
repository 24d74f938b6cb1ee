"""Comparing answers with the gold; answers are hostile."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.tasks.answers import last_boxed, last_number, read_gold
from rethink.tasks.checkers import exact_number
from rethink.tasks.mathematics import math_equal
from rethink.tasks.numbers import read_quantity


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("7", "7", 1),
        (" 7 ", "7", 1),
        ("+7", "7", 1),
        ("7.0", "7", 1),
        ("1,234", "1234", 1),
        ("1/2", "0.5", 1),
        (".5", "0.5", 1),
        ("$18", "18", 1),
        ("18 dollars", "18", 1),
        ("25%", "25", 1),
        ("-3", "3", 0),
        ("3 or 4", "3", 0),
        ("3 + 4 = 7", "7", 1),
        ("3 + 4 = 8", "8", 0),
        ("5", "5 million", 0),
        ("5000000", "5 million", 1),
        ("", "7", 0),
        ("seven", "7", 0),
        ("1/0", "7", 0),
        ("12,34", "1234", 0),
        ("1" * 5000, "7", 0),
        ("nan", "7", 0),
        ("1e999999999", "7", 0),
        ("7", None, None),
        ("7", "no number", None),
    ],
)
def test_exact_numbers(answer: str, gold: str | None, score: float | None) -> None:
    assert exact_number(answer, gold) == score


@settings(deadline=None)
@given(st.text(max_size=200))
def test_reading_a_number_never_raises(text: str) -> None:
    read_quantity(text)
    last_number(text)
    last_boxed(text)


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        (r"\frac{1}{2}", "0.5", 1),
        ("x^2+2x+1", "(x+1)^2", 1),
        (r"\{1,2\}", r"\{2,1\}", 1),
        ("3", "4", 0),
        ("", "4", 0),
        ("9**9**9**9", "4", 0),
        ("2^{99999999}", "4", 0),
        ("(" * 10_000, "4", 0),
        ("99999999!", "4", 0),
        ("1E99999999", "4", 0),
        ("1E-99999999", r"\sqrt{2}", 0),
        (r"\binom{9999999}{4999999}", r"\sqrt{2}", 0),
        (r"\Gamma(99999999)", r"\sqrt{2}", 0),
        (r"9999^{9999\cdot 9999}", r"\sqrt{2}", 0),
        (r"9^{9\cdot 9999 \cdot 9999}", r"\sqrt{2}", 0),
        (r"\binom{5}{2}", "10", 1),
        (r"2^{2 \cdot 3}", "64", 1),
        ("9" * 390, "4", 0),
        ("4", None, None),
    ],
)
def test_mathematics(answer: str, gold: str | None, score: float | None) -> None:
    assert math_equal(answer, gold) == score


def test_mathematics_off_the_main_thread() -> None:
    found: list[float | None] = []
    thread = threading.Thread(target=lambda: found.append(math_equal(r"\frac{2}{4}", "0.5")))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("value", "how", "gold"),
    [
        ("thinking\n#### 1,234", "auto", "1234"),
        ("#### 5", "gsm8k", "5"),
        ("no mark", "gsm8k", None),
        (r"so \boxed{\frac{1}{2}}.", "auto", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "boxed", "2"),
        (r"\boxed{1} then \boxed{2", "boxed", "1"),
        (" 42 ", "plain", "42"),
        (42, "auto", "42"),
        (2.5, "auto", "2.5"),
        (True, "auto", None),
        (None, "auto", None),
        (["1"], "auto", None),
        ("", "auto", None),
    ],
)
def test_gold_answers(value: object, how: str, gold: str | None) -> None:
    assert read_gold(value, how) == gold  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5-3", "5-3"),
        ("it is -3.", "-3"),
        ("1,000 apples", "1,000"),
        ("none", None),
        ("3/4 of it", "3/4"),
        ("2, 3,", "3"),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number
