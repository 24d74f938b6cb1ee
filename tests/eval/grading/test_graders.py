"""Finding and judging answers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.analysis.mixing import mixing_share
from rethink.eval.benchmark import Grader, Verdict
from rethink.eval.grading import stated_answer
from rethink.eval.grading.drop import drop_scores
from rethink.eval.grading.graders import CHOICE, DROP, IFEVAL, MATH, SHORT, YES_NO, math_equivalent
from rethink.rewards.extract import extract_answer
from rethink.types import Problem


def problem(answer: str | None, **metadata: Any) -> Problem:
    return Problem("p", "b", "q", answer, metadata)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("so \\boxed{1} or rather \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("<think>\\boxed{1}</think> It is \\boxed{2}.", "2"),
        ("<think>\\boxed{1} and so on", None),  # the thought never ended
        ("<think> a </think> <answer> 12 </answer>", "12"),
        ("<think> a </think> <answer>It is \\boxed{12}</answer>", "12"),
        ("First 3. The answer is $42$.", "42"),
        ("答案是 15。", "15"),
        ("so it comes to 8 in all", "8"),
        ("", None),
        ("nothing", "nothing"),
    ],
)
def test_math_answer(turn: str, expected: str | None) -> None:
    assert stated_answer.math_answer(turn) == expected
    assert extract_answer(turn, "", "auto") == expected


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("A is tempting, but\nANSWER: B", "B"),
        ("**Answer:** (C)", "C"),
        ("The answer is D.", "D"),
        ("Answer: A\nWait.\nAnswer: B", "B"),
        ("答案：C", "C"),
        ("答案是（D）", "D"),
        ("\\boxed{\\text{B}}", "B"),
        ("<think>ANSWER: A</think>\n\nC", "C"),
        ("B) because", "B"),
        ("A dog barked.", None),
        ("Answer: All of them", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_letter_answer(turn: str, expected: str | None) -> None:
    assert stated_answer.letter_answer(turn) == expected


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("想一想。\n答案：是", "是"),
        ("答案是否", "否"),
        ("答案是", "是"),
        ("答案：不是。", "否"),
        ("是", "是"),
        ("不是的", "否"),
        ("也许", None),
        ("答案：是\n不对。答案：否", "否"),
    ],
)
def test_yes_no_answer(turn: str, expected: str | None) -> None:
    assert stated_answer.yes_no_answer(turn) == expected


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("Thinking.\nAnswer: Paris", "Paris"),
        ("**Answer:** 12 yards", "12 yards"),
        ("Paris", "Paris"),
        ("One line\nand another", None),
        ("The answer is Paris.", "Paris"),
    ],
)
def test_line_answer(turn: str, expected: str | None) -> None:
    assert stated_answer.line_answer(turn) == expected


@given(st.text(alphabet="\\boxed{}<think>/answr: ABC答案是$*_\n1", max_size=200))
def test_finding_never_raises(turn: str) -> None:
    for name in ("math_answer", "letter_answer", "yes_no_answer", "line_answer"):
        getattr(stated_answer, name)(turn)


@pytest.mark.parametrize("unit", ["\\boxed{", "answer ", "answer: ", "<answer>", "```", "答案", "</think>", "(((", "$"])
def test_finding_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * size
        start = time.process_time()
        stated_answer.math_answer(text)
        stated_answer.letter_answer(text)
        stated_answer.line_answer(text)
        stated_answer.yes_no_answer(text)
        mixing_share("a question", text)
        return time.process_time() - start

    seconds(100)
    assert seconds(32_000) < 64 * seconds(2_000) + 1.0


@pytest.mark.parametrize(
    ("grader", "gold", "turn", "score"),
    [
        (MATH, "18", "\\boxed{18}", 1.0),
        (MATH, "18", "\\boxed{18.0}", 1.0),
        (MATH, "18", "\\boxed{19}", 0.0),
        (MATH, "18", "\\boxed{\\$18}", 1.0),
        (MATH, "18", "\\boxed{18 \\text{ dollars}}", 1.0),
        (MATH, "40", "\\boxed{40元}", 1.0),
        (MATH, "18", "\\boxed{18 \\text{ million}}", 0.0),
        (MATH, "18", "\\boxed{x > 18}", 0.0),
        (MATH, "3", "\\boxed{x^3}", 0.0),
        (MATH, "3", "\\boxed{\\pm 3}", 0.0),
        (MATH, "3", "\\boxed{\\sqrt{9}}", 1.0),
        (MATH, "1/3", "\\boxed{0.333333}", 1.0),
        (MATH, "1000", "\\boxed{1,000}", 1.0),
        (MATH, "0.5", "\\boxed{\\frac{1}{2}}", 1.0),
        (MATH, "\\frac{\\pi}{2}", "\\boxed{\\dfrac{\\pi}{2}}", 1.0),
        (MATH, "18", "no answer here", 0.0),
        (MATH, None, "\\boxed{18}", None),  # the gold cannot be read: nothing is said
        (CHOICE, "B", "ANSWER: B", 1.0),
        (CHOICE, "B", "ANSWER: C", 0.0),
        (CHOICE, "B", "hm", 0.0),
        (CHOICE, "B", "B, C", 0.0),
        (YES_NO, "否", "答案：否", 1.0),
        (SHORT, "Marie Curie", "Answer: It was Marie Curie.", 1.0),
        (SHORT, "Marie Curie", "Answer: Curie", 0.0),
        (SHORT, "4", "Answer: " + " ".join(map(str, range(40))), 0.0),  # a list of guesses
    ],
)
def test_verdicts(grader: Grader, gold: str | None, turn: str, score: float | None) -> None:
    assert grader.judge(problem(gold), turn).score == score


def test_a_letter_beyond_the_options_is_no_answer() -> None:
    four = problem("A", choices=["a"] * 4)
    assert CHOICE.judge(four, "ANSWER: E") == Verdict(None, 0.0)
    assert CHOICE.judge(four, "ANSWER: D") == Verdict("D", 0.0)
    assert CHOICE.judge(problem("I", choices=["a"] * 10), "ANSWER: I") == Verdict("I", 1.0)
    assert CHOICE.judge(problem(None), "ANSWER: I") == Verdict(None, None)


def test_equivalence_for_votes() -> None:
    assert math_equivalent("1/2", "0.5")
    assert math_equivalent("\\frac{1}{2}", "0.5")
    assert math_equivalent("5 apples", "5")
    assert not math_equivalent("x+1", "x+2")
    for other in ("x^5", "5 million", "x + y = 5", "5'", "not 5", "5..."):
        assert not math_equivalent("5", other)
        assert not math_equivalent(other, "5")
    assert not math_equivalent("9^{9^{9^9}}", "1")


@pytest.mark.parametrize(
    ("answer", "golds", "exact", "f1"),
    [
        ("The Bears", ["bears"], 1.0, 1.0),
        ("4", ["4.0"], 1.0, 1.0),
        ("1,000 yards", ["1000"], 0.0, 0.67),
        ("5 yards", ["4 yards"], 0.0, 0.0),  # another number: words do not count
        ("Tom Brady", ["Tom", "Tom Brady"], 1.0, 1.0),
        ("well-known man", ["known man"], 0.0, 0.8),
    ],
)
def test_drop(answer: str, golds: list[str], exact: float, f1: float) -> None:
    assert drop_scores(answer, golds) == (exact, f1)
    verdict = DROP.judge(problem(" | ".join(golds), answers=golds), f"So.\nAnswer: {answer}")
    assert (verdict.score, verdict.detail["exact"]) == (f1, exact)


def test_ifeval_verdict() -> None:
    asked = problem(None, instructions=["punctuation:no_comma", "startend:quotation"], arguments=[{}, {}])
    verdict = IFEVAL.judge(asked, '<think>a, b</think>"fine"')
    assert (verdict.score, verdict.detail) == (1.0, {"strict": [True, True], "loose": [True, True]})
    assert IFEVAL.judge(asked, "<think>never ends").score == 0.0


@pytest.mark.parametrize(
    ("question", "text", "share"),
    [
        ("How many apples?", "There are five apples", 0.0),
        ("How many apples?", "There are 五个 apples", 0.4),
        ("小店有多少个苹果？", "一共有五个", 0.0),
        ("小店有多少个苹果？", "一共 apples 有五个", 1 / 6),
        ("How many?", "$中文$ ok then", 0.0),
        ("12?", "text", None),
        ("How many?", "12", None),
    ],
)
def test_language_mixing(question: str, text: str, share: float | None) -> None:
    assert mixing_share(question, text) == (None if share is None else pytest.approx(share))
