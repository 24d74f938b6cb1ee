"""Where answers are found: the rules on what models write, and the work that hostile text can cause."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.eval.grading.graders import MATH
from rethink.rewards import extract
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.extract import AnswerRule, extract_answer, find_answer
from rethink.tasks.last_value import SEARCHED
from rethink.types import Completion, Problem, Prompt
from tests.paths import SHARED_DATA

NONE = np.zeros(0, np.float32)
TAGGED = "<think>a</think><answer>{}</answer>"


def scored(name: str, gold: str, text: str, **params: Any) -> float | None:
    completion = Completion(np.zeros(1, np.int32), text, NONE, NONE, "stop")
    return make_part(name, params, PartContext(), "test")(Problem("p", "t", "?", gold), Prompt("", ()), completion)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # Short sentences: their last value.
        ("Well, he now has 15 cows.", "15"),
        ("In 2024, he has 15 cows.", "15"),
        ("It is 5% of 80, so 4.", "4"),
        ("So x = 7.", "7"),
        ("7, I think", "7"),
        ("No: 7", "7"),
        ("So $x = 7$.", "x = 7"),
        ("7 or 8, I think", "7 or 8"),
        ("It is not 7.", "not 7"),
        ("no 7", "no 7"),
        ("It cannot be 7.", "cannot be 7"),
        # Several values with labels are the whole: none of them is the answer.
        ("Tom: 7, Ann: 8", "Tom: 7, Ann: 8"),
        ("Tom 7, Ann 8", "Tom 7, Ann 8"),
        ("Tom has 7 and Ann has 8.", "Tom has 7 and Ann has 8."),
        ("7 apples and 8 pears", "7 apples and 8 pears"),
        ("7 for Tom, $8 for Ann", "7 for Tom, $8 for Ann"),
        ("Red: 7. Blue: 8.", "Red: 7. Blue: 8."),
        ("Red: 7\nBlue: 8", "Red: 7\nBlue: 8"),
        ("answer 1: 7, answer 2: 8", "answer 1: 7, answer 2: 8"),
        ("The answers are 7 and 8", "The answers are 7 and 8"),
        ("She sold 5 of them, so 7 are left", "7"),
        ("He had 12, and 7 are left", "7"),
        ("It was 7 before and 7 after", "7"),
        ("First 3 + 4, then 7 again", "7"),
        ("→ 7", "7"),
        # No sentences: the whole.
        ("15 cows", "15 cows"),
        ("He has 15 cows.", "He has 15 cows."),  # which a reader of numbers reads, with what is counted
        ("June 20", "June 20"),
        ("x > 7", "x > 7"),
        ("5 apples, 6 pears", "5 apples, 6 pears"),
        ("(3, 4)", "(3, 4)"),
        ("yes", "yes"),
        # After words such as "the answer is".
        ("The answer is 5 because 3 and 2 are 5.", "5"),
        ("答案是：42。", "42"),
        ("答案为：42", "42"),
        ("所以答案是 $42$。", "42"),
        ("答案是 42，因为有3个。", "42"),
        ("The answer is −5.", "−5"),
        # Empty boxes are none.
        (r"$\boxed{12}$. I marked it with \boxed{} as asked.", "12"),
        (r"\boxed{7} \boxed{ } \boxed{\,} \boxed{\text{}} \boxed{\ldots} \fbox{...}", "7"),
        (r"The answer is 7. \boxed{}", "7"),
        (r"\boxed{\{\}}", r"\{\}"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        # In the tags as elsewhere.
        (TAGGED.format("The answer is 42."), "42"),
        (TAGGED.format("#### 42"), "42"),
        (TAGGED.format("So, in total, he has 42 cows left."), "42"),
        (TAGGED.format("答案是42"), "42"),
        (TAGGED.format(r"It is \boxed{42}"), "42"),
        (TAGGED.format("4 2"), "4 2"),
        (TAGGED.format("Move disk 1\nMove disk 2"), "Move disk 1\nMove disk 2"),
        (TAGGED.format("Tom Brady"), "Tom Brady"),
        # Prices are no formulas.
        ("He paid $5 and she paid $6 for it", "$6"),
        ("In 2024 the area of it was 12 cm$^2$ in all", "12"),
        ("In 2024 the sum of it was $5$ million", "5 million"),
    ],
)
def test_auto(text: str, answer: str) -> None:
    assert extract_answer(text, "", "auto") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("####7", "7"),
        ("#### : 7", "7"),
        ("#### # 7", "7"),
        ("#####  7  ", "7"),
        ("#### 7\nmore\n", "7"),
        ("#### 1\n#### 2", "2"),
        ("#### -1,234.5 dollars", "-1,234.5 dollars"),
        ("### 7", None),
        ("####", None),
        ("#### \n7", None),
        ("7", None),
        ("#### 7\n####", None),
        ("<think>#### 1</think> 7", None),
        ("<think>#### 1</think>\n#### 7", "7"),
        ("# # # # 7", None),
    ],
)
def test_hash(text: str, answer: str | None) -> None:
    assert extract_answer(text, "", "hash") == answer


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("boxed", r"\boxed{7} \boxed{}", "7"),
        ("boxed", r"\boxed{}", None),
        ("answer-tag", TAGGED.format(r"$\boxed{7}$"), "7"),
        ("answer-tag", TAGGED.format("The answer is 7"), "The answer is 7"),
        ("last-number", "it is −7, or", "−7"),
        ("text", "</think> ", None),
    ],
)
def test_other_rules(rule: AnswerRule, text: str, answer: str | None) -> None:
    assert extract_answer(text, "", rule) == answer


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        ("The area of the square is 12 cm^2.", "2", 0),
        ("The area of the square is 12 cm^2.", "12", 1),
        ("The balance is -$1,200.", "1200", 0),
        ("The balance is -$1,200.", "-1200", 1),
        ("There are 3 1/2 cups left over", "7/2", 1),
        (r"\boxed{40元}", "40", 1),
        ("答案是40。", "40", 1),
        (TAGGED.format("So, in 2024, 42 of them"), "42", 1),
    ],
)
def test_the_reward_and_the_evaluation_agree(text: str, gold: str, score: float) -> None:
    assert scored("math", gold, text) == score
    assert scored("number", gold, text) == score
    verdict = MATH.judge(Problem("p", "b", "q", gold), text)
    assert verdict.score == score
    assert verdict.answer == extract_answer(text, "", "auto")


@pytest.mark.parametrize("rule", ["auto", "boxed", "text"])
@pytest.mark.parametrize(
    "text", [r"\boxed{(A), (B), (C), (D)}", r"\boxed{(A) or (C)}", r"\boxed{A, B}", r"\boxed{A/B}"]
)
def test_several_choices_are_wrong(rule: str, text: str) -> None:
    assert scored("math", "A", text, answer=rule) == 0
    assert scored("math", "A", r"\boxed{A}", answer=rule) == 1
    assert scored("math", "A", r"\boxed{\text{(A)}}", answer=rule) == 1


def test_a_choice_in_a_sentence() -> None:
    assert scored("math", "B", "I think (B) is correct, since A fails.") == 1
    assert scored("math", "A", "I think (B) is correct, since A fails.") == 0
    assert scored("math", "A", "A or B") == 0
    assert scored("math", "E", "E") == 1
    assert scored("math", "C", "The constant C is free, so the answer is C") == 1


FILES = ("auto-number-cut", "auto-short-sentence", "auto-chinese", "empty-box", "answer-tag-sentence")


@pytest.mark.parametrize("name", FILES)
def test_reported_cases(name: str) -> None:
    path = SHARED_DATA / "cases" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        assert float(scored("math", row["gold"], row["completion"]) == 1) == row["expected"], row["id"]


@given(st.text(alphabet="\\boxed{}<think>/answr: is12.,$−()#=\n答案是", max_size=120))
def test_nothing_raises_and_nothing_is_made_up(text: str) -> None:
    for rule in ("auto", "answer-tag", "boxed", "hash", "last-number", "text"):
        answer = extract_answer(text, "", rule)
        assert answer is None or set(answer) <= set(text) | {",", " "}


UNITS = [
    "1", "(", "[", "{", "\\boxed{", "\\boxed{1}", "\\fbox{", "<answer>", "</answer>", "<think>", "</think>",
    "answer is ", "The answer is x y z w ", "答案是", "$", "$1 ", "\\(", "\\[", "CO2 ", "cm^2 ", "1 + ",
    "*a", "<<1", "####", "A: foo 1\n",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_the_work_does_not_grow_with_the_text(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is searched are pieces of bounded length, and their sum is a few times what may be searched."""
    read = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(text: str, *args: Any, **kwargs: Any) -> Any:
            nonlocal read
            read += len(text)
            return function(text, *args, **kwargs)

        return call

    for name in (
        "boxed_list",
        "last_boxed",
        "after_hash",
        "_cue",
        "_first_answer",
        "_last_value",
        "_has_prose",
        "last_number",
    ):
        monkeypatch.setattr(extract, name, counted(getattr(extract, name)))
    for rule in ("auto", "boxed", "hash", "last-number"):
        read = 0
        extract_answer(unit * (400_000 // len(unit)), "", rule)
        assert read <= 8 * SEARCHED, rule


def test_a_cue_is_looked_for_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(extract, "_first_answer", lambda rest: calls.append(rest))
    find_answer("the answer is that it is so " * 1000)
    assert len(calls) == extract.MAX_CUES
    assert all(len(rest) <= extract.CUE_REST for rest in calls)


def test_what_stands_too_far_from_the_end_is_no_answer() -> None:
    assert extract_answer("\\boxed{7}" + " so" * SEARCHED, "", "boxed") is None
    assert re.fullmatch("7", str(extract_answer("so " * SEARCHED + "\\boxed{7}", "", "boxed")))
