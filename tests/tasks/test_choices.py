"""The letter that answers a question with options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.tasks.choices import OPTIONS, choice_letter, read_choice

CHOSEN = {
    "A": ["A", "(A)", "Answer: A", "Answer: a", "Answer: A because the car moves", "I would go with A.",
          "The answer is A and that is final.", "The answer is A, as shown.", "Answer: I guess A"],
    "B": ["b", "B)", "B) Paris", "B: Paris", "(B) Paris", "'B'", "`B`", "**B**", "ANSWER: [B]", "ANSWER: <B>",
          "ANSWER: “B”",
          "ANSWER: \\text{B}", "ANSWER: $B$", "\\boxed{\\text{(B)}}", "\\boxed{B. Paris}", "Option B",
          "The correct option is B", "The correct choice is **B**.", "The answer is letter B", "Answer: B, not A",
          "Answer: B rather than C", "Answer: A is wrong, so B", "A is incorrect. B is correct.",
          "Thus, option B is correct.",
          "B. Rayleigh scattering; it is not (A).", "B. Vitamins A and D", "B. Paris. A is wrong.",
          "B. Paris\nA. is wrong",
          "B. 4; (A) is too small", "B. Since (A) and (C) fail", "B. f(x) = (A) x", "B. Vitamin B. It is",
          "The answer is B. Note that A is a common distractor.", "ANSWER:\n**B) Paris**", "### Answer\n\n**B**",
          "Answer: A\nWait.\nAnswer: B", "The answer is A. No wait, the answer is B.", "\\boxed{}. The answer is B"],
    "C": ["故选C。", "选C", "答案是（C）", "答案：Ｃ", "正确选项是 C",
          "答案是C，因为A错误",
          "answer=C", "ANSWER → C", "ANSWER：Ｃ",
          "Answer: It could be A or B but I choose C", "Answer: I think it is C", "Answer: A good choice is C",
          "The answer is C since A is false.", "The correct answer is therefore C.",
          "Because C is valid", "我选C", "应该选C而不是A",
          "所以C正确。"],
    "D": ["Answer: It is not B, the answer is D", "Answer: not A, but D", "It's (D).", "\\boxed{D}, not A",
          "I choose D."],
}  # fmt: skip
NONE = [
    "", "I", "Answer: I", "Answer: I think so", "A car is fast.", "A dog barked.", "C Paris", "Plan B failed.", "Apple",
    "Answer: Apple", "Answer: 42", "Answer: Z", "The answer is X.", "Answer: all of the above",
    "Answer: none of A to D", "Answer: neither A nor B", "The answer is not B.", "The answer isn't B", "E = mc^2",
    "Vitamin C is essential.",
]  # fmt: skip
SEVERAL = [
    "(A), (B), (C), (D)", "\\boxed{(A) or (C)}", "\\boxed{A, C}", "A/B", "A B C D", "A, B, C", "Answer: A, B and C",
    "Answer: A/B", "Answer: A and C", "Answer: (A) and (C)", "Answer: A or B", "Answer: both A and B", "答案：A和B",
    "答案是A或C", "ANSWER: A B C D", "Answer: A to D",
    # A list of the options.
    "A. 3; B. 4", "A. 3, B. 4, C. 5", "A: 3; B: 4", "(A) 3 (B) 4", "A) 3 B) 4", "A. 3\nB. 4\nC. 5", "- A. 3\n- B. 4",
    "A. 3 or B. 4", "Answer: A. 3; B. 4", "\\boxed{A. 3; B. 4}",
]  # fmt: skip


@pytest.mark.parametrize(("letter", "text"), [(letter, text) for letter in CHOSEN for text in CHOSEN[letter]])
def test_a_letter_is_chosen(letter: str, text: str) -> None:
    assert choice_letter(text) == letter


@pytest.mark.parametrize("text", NONE)
def test_no_letter_is_chosen(text: str) -> None:
    assert choice_letter(text) is None


@pytest.mark.parametrize("text", SEVERAL)
def test_several_letters_are_no_choice(text: str) -> None:
    assert choice_letter(text) is None
    assert read_choice(text) == ""


def test_only_options_are_chosen() -> None:
    assert choice_letter("Answer: F") == "F"
    assert choice_letter("Answer: F", "ABCD") is None
    assert choice_letter("F", "ABCD") is None
    assert choice_letter("\\boxed{F}", "ABCD") is None
    assert choice_letter("Answer: D", "ABCD") == "D"
    for text in ("Answer: I", "I", "\\boxed{I}", "(I)"):
        assert choice_letter(text, OPTIONS) == "I"
    assert choice_letter("Answer: I think it is C", OPTIONS) == "C"
    assert choice_letter("Answer: I think so", OPTIONS) is None


@given(st.text(alphabet="ABCI abcis.,:/()\\boxed{}answer\n答案是选*'", max_size=80), st.sampled_from(["ABCD", OPTIONS]))
def test_a_letter_is_an_option_or_none(text: str, options: str) -> None:
    letter = choice_letter(text, options)
    assert letter is None or (letter in options and letter in text.upper())
