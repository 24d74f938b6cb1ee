"""Whether looking again changed an answer: written examples, their counts, and what a report says of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.analysis.self_correction import LOOKED_AT, MOST_EXAMPLES, OUTCOMES, count, passage, self_corrections
from rethink.observe.report.aha import aha

CORRECTED = "7 + 8 = 14. Wait, let me check: 7 + 8 = 15.</think><answer>15</answer>"


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        (CORRECTED, "15", ["corrected"]),
        (CORRECTED, None, ["corrected"]),  # arithmetic needs no gold answer
        ("7 + 8 = 15. Wait, 7+8 = 14.", None, ["spoiled"]),
        ("7 + 8 = 15. Hmm, 7 + 8 = 15.", None, ["still right"]),
        ("7 + 8 = 14. Hmm, 7 + 8 = 13.", None, ["still wrong"]),
        ("7 + 8 = 14 - wait, 7 + 8 = 15", None, ["corrected"]),
        ("2 × 3 − 1 = 6. Hold on. 2*3-1 = 5", None, ["corrected"]),
        ("8 / 4 + 1 = 3. Wait: 8 ÷ 4 + 1 = 3", None, ["still right"]),
        ("The answer is 12. However, I forgot one. The answer is 13.", "13", ["corrected"]),
        ("The answer is **12**. Wait. So \\boxed{13}.", "13", ["corrected"]),
        ("The answer is 1,200. Wait!</think> <answer>1200</answer>", "1200", ["still right"]),
        ("<think>the result is 4. Wait, no.</think><answer>5</answer>", "5", ["corrected"]),
        ("答案是 12。等等，不对。答案是 13。", "13", ["corrected"]),
        ("答えは8。待って、間違えた。答えは7。", "7", ["corrected"]),
        ("Ответ: 8. Подожди, ошибка. Ответ: 7.", "7", ["corrected"]),
        ("الجواب 8. انتظر، خطأ. الجواب 7.", "7", ["corrected"]),
        ("La respuesta es 3. Espera. La respuesta es 4.", "4", ["corrected"]),
        ("La réponse est 3. Attendez. La réponse est 4.", "4", ["corrected"]),
        ("Die Antwort ist 3. Moment mal. Die Antwort lautet 4.", "4", ["corrected"]),
        ("The answer is 1. Wait. The answer is 2. Wait. The answer is 3.", "3", ["still wrong", "corrected"]),
        # Without a marker between them, of different things, or of what cannot be checked: nothing is claimed.
        ("7 + 8 = 14. 7 + 8 = 15. Wait, what?", "15", []),
        ("Wait. 7 + 8 = 14. 7 + 8 = 15.", None, []),
        ("2 + 3 = 5. Wait, 5 + 1 = 6.", "6", []),
        ("Step 1: 3 + 4 = 7. Wait, step 2: 10 - 2 = 8", "8", []),
        ("The answer is 12. Wait. The answer is 13.", None, []),
        ("The answer is 12. Wait. The answer is 13.", "x + 1", []),
        ("The answer is 5 + 3. Wait. The answer is 8.", "8", []),
        ("7 + 8 = 14 - x. Wait. 7 + 8 = 15", None, []),
        ("The answer is no. Wait, the answer is yes.", "1", []),
        ("(7 + 8) * 2 = 30. Wait, 1 * 2 = 3", None, []),
        ("(2 + 3) * 4 - 5 = 15. Wait, 4 - 5 = -1", None, []),
        ("2 + 3 = 1 + 4. Wait. 2 + 3 = 5", None, []),
        ("1 / 0 = 1. Wait. 1 / 0 = 2", None, []),
        ("I will wait for the answer.", "3", []),
        ("", "3", []),
    ],
)  # fmt: skip
def test_written_examples(text: str, gold: str | None, expected: list[str]) -> None:
    assert [found.outcome for found in self_corrections(text, gold)] == expected


def test_what_is_known_of_one() -> None:
    (found,) = self_corrections(CORRECTED, None)
    assert (found.kind, found.marker, found.before, found.after) == (
        "equation",
        "let me check",
        "7 + 8 = 14",
        "7 + 8 = 15",
    )
    assert CORRECTED[found.start : found.end].startswith("7 + 8 = 14")
    (answer,) = self_corrections("The answer is 1. Wait. The answer is 2.", "2")
    assert (answer.kind, answer.marker) == ("answer", "wait")


def test_counts() -> None:
    texts = [
        (CORRECTED, "15"),
        (CORRECTED, "15"),
        ("Wait, what?", "15"),
        ("15", "15"),
        ("3 + 4 = 7. Wait: 3 + 4 = 8", None),
    ]
    counts = count(texts)
    assert (counts.completions, counts.marked, counts.checked, counts.corrected) == (5, 4, 3, 2)
    assert counts.outcomes == {"corrected": 2, "spoiled": 1}
    assert counts.examples == [CORRECTED, CORRECTED]
    assert len(count([(CORRECTED, None)] * 20).examples) == MOST_EXAMPLES
    assert count([]).completions == 0


def test_a_passage_is_short() -> None:
    text = "a " * 500 + "7 + 8 = 14." + " b" * 5000 + " Wait. 7 + 8 = 15." + " c" * 500
    (found,) = self_corrections(text, None)
    shown = passage(text, found)
    assert len(shown) < 1000
    assert shown.startswith("… ")
    assert "7 + 8 = 14." in shown
    assert "7 + 8 = 15." in shown


@given(st.integers(0, 99), st.integers(1, 99), st.sampled_from("+-*"), st.integers(-5, 5))
def test_arithmetic_is_pythons(a: int, b: int, operator: str, off: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    (found,) = self_corrections(f"{a} {operator} {b} = {value + off}. Wait. {a} {operator} {b} = {value}", None)
    assert found.is_right
    assert found.was_right == (off == 0)


@given(st.text(alphabet="wait 12+=<answer>/.,\\boxed{}", max_size=300), st.sampled_from([None, "1", "12"]))
def test_any_text(text: str, gold: str | None) -> None:
    for found in self_corrections(text, gold):
        assert found.outcome in OUTCOMES
        assert 0 <= found.start < found.end <= len(text)


@pytest.mark.parametrize(
    "text",
    ["1+" * LOOKED_AT, "1 + 1 = 2 wait " * LOOKED_AT, "9" * LOOKED_AT, "the answer is " * LOOKED_AT, "wait" * LOOKED_AT,
     "\\boxed{" * LOOKED_AT, "1  +  " * LOOKED_AT, "1,111," * LOOKED_AT, "<answer> " * LOOKED_AT],
)  # fmt: skip
def test_hostile_text_does_not_hang(text: str) -> None:
    began = time.process_time()
    self_corrections("wait " + text, "1")
    assert time.process_time() - began < 10


def test_the_report_is_honest() -> None:
    shown = aha({"first": [("<b>15</b>", "15")], "last": [(CORRECTED.replace("Wait", "<i>Wait"), "15")]}, "model")
    assert "&lt;i&gt;Wait" in shown
    assert "<i>" not in shown
    assert shown.count("7 + 8 = 14.") == 1
    assert "No completion contains a marker" in aha({"a": [("15", "15")]}, "model")
    assert "nothing can be checked" in aha({"a": [("Wait.", "15")]}, "model")
    assert "Nothing was corrected" in aha({"a": [("7 + 8 = 15. Wait. 7 + 8 = 15", None)]}, "model")
