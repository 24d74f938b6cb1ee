"""Counting words of reflection, and what re-examinations change."""

import time

import pytest

from rethink.observe.reflection import (
    MARKERS,
    count_reflection,
    reexaminations,
    reflection_rate,
    summarise_reflection,
)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Wait, wait. Let me check again: WAIT!", {"wait": 3, "let me check": 1}),
        ("awaiting waiters", {}),
        ("That is wrong; I should double-check.", {"wrong": 1, "double-check": 1}),
        ("", {}),
    ],
)
def test_counts_whole_words(text: str, counts: dict[str, int]) -> None:
    assert count_reflection(text) == counts


def test_rate_is_per_thousand_words_of_all_texts() -> None:
    assert reflection_rate(["wait " + "word " * 9, "word " * 10]) == pytest.approx(50.0)
    assert reflection_rate([]) == 0.0


@pytest.mark.parametrize(
    ("text", "gold", "verdicts"),
    [
        ("3 + 4 = 8. Wait, let me check: 3 + 4 = 7. <answer>7</answer>", "7", ["wrong to right"]),
        ("3 + 4 = 7. Wait, that is wrong: 3 + 4 = 8.", "7", ["right to wrong"]),
        ("3 + 4 = 7. Let me double-check. Yes, 3 + 4 = 7.", "7", ["right and right"]),
        ("3 + 4 = 8. Hmm, 3 + 4 = 9.", "7", ["wrong and wrong"]),
        # Going on with a partial result mends nothing.
        ("2 + 3 = 5. Wait, there is one more: 5 + 4 = 9.", "9", ["not checked"]),
        ("2 + 3 = 5. Wait, there is one more: 4 + 5 = 9.", "9", ["not checked"]),
        # No value before, none after, no gold, a gold that is no number.
        ("Wait, let me verify. 3 + 4 = 7.", "7", ["not checked"]),
        ("3 + 4 = 7. Wait.", "7", ["not checked"]),
        ("3 + 4 = 8. Wait, 3 + 4 = 7.", None, ["not checked"]),
        ("= 8. Wait, = 7.", "seven", ["not checked"]),
        # A number in passing is no answer, nor is the first operand of what follows.
        ("There are 3 apples. Wait, the answer is 7.", "7", ["not checked"]),
        ("It is = 3 + 5 = 8. Wait, it is = 3 + 4 = 7.", "7", ["wrong to right"]),
        # Words without a stated value between them are one re-examination; with one they are two.
        ("= 8. Wait, wait. Hmm, no: = 7.", "7", ["wrong to right"]),
        ("= 8. Wait, = 9. Hmm, = 7.", "7", ["wrong and wrong", "wrong to right"]),
        ("The answer is 1,200. Wait: the answer is **1,000**.", "1000", ["wrong to right"]),
        ("\\boxed{-2}. Mistake! \\boxed{-2.50}", "-2.5", ["wrong to right"]),
        ("Das Ergebnis ist 8. Moment mal, das stimmt nicht: das Ergebnis ist 7.", "7", ["wrong to right"]),
        ("La respuesta es 8. Espera, me equivoqué: la respuesta es 7.", "7", ["wrong to right"]),
        ("La réponse est 8. Attends, vérifions : la réponse est 7.", "7", ["wrong to right"]),
        ("Ответ: 8. Подожди, ошибка. Ответ: 7.", "7", ["wrong to right"]),
        ("答案是8。等等，不对，答案是7。", "7", ["wrong to right"]),
        ("答えは8。待って、間違えた。答えは7。", "7", ["wrong to right"]),
        ("الجواب 8. انتظر، خطأ. الجواب 7.", "7", ["wrong to right"]),
        ("No word of it: 3 + 4 = 7.", "7", []),
    ],
)  # fmt: skip
def test_what_a_reexamination_does(text: str, gold: str | None, verdicts: list[str]) -> None:
    assert [found.verdict for found in reexaminations(text, gold)] == verdicts


def test_every_language_has_words_that_are_found() -> None:
    for words in MARKERS.values():
        for word in words:
            assert count_reflection(f"({word}) ") == {word: 1}


def test_the_summary_is_honest() -> None:
    none = summarise_reflection([("q", "= 7", "7")] * 3)
    assert (none.completions, none.reexamining, none.total, none.checked, none.examples) == (3, 0, 0, 0, ())
    long = "word " * 200
    some = summarise_reflection(
        [
            ("q1", "= 7. Wait, = 8.", "7"),
            ("q2", f"{long}= 8. Wait, = 7. {long}", "7"),
            ("q3", "Wait.", None),
            ("q4", "= 8", "7"),
        ]
    )
    assert (some.completions, some.reexamining, some.total, some.checked) == (4, 3, 3, 2)
    assert some.verdicts["wrong to right"] == some.verdicts["right to wrong"] == 1
    assert [example.question for example in some.examples] == ["q2", "q1"], "what was mended comes first"
    assert "= 8. Wait, = 7." in some.examples[0].excerpt
    assert len(some.examples[0].excerpt) < 500


@pytest.mark.parametrize("text", ["wait " * 200_000, "= 1" * 300_000, "=" + "1" * 500_000, "=1,111" * 100_000,
                                  "= 1 wait " * 60_000, "等等" * 200_000, "\\boxed{" * 100_000])  # fmt: skip
def test_huge_texts_end_soon(text: str) -> None:
    started = time.process_time()
    reexaminations(text, "1")
    assert time.process_time() - started < 15
