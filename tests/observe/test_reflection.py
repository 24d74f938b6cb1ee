"""Counting words of reflection."""

import pytest

from rethink.observe.reflection import count_reflection, reflection_rate


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
