"""Counting words of reflection in eight languages."""

import time

import pytest

from rethink.analysis.reflection import MARKERS, count_reflection, reflection_rate
from tests.paths import ROOT


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Wait, wait. Let me check again: WAIT!", {"wait": 3, "let me check": 1}),
        ("awaiting waiters", {}),
        ("That is wrong; I should double-check.", {"wrong": 1, "double-check": 1}),
        ("", {}),
        ("Espera, me equivoqué. Attends ! Moment mal.",
         {"espera": 1, "me equivoqué": 1, "attends": 1, "moment mal": 1}),
        ("Подожди, это неверно. انتظر", {"подожди": 1, "неверно": 1, "انتظر": 1}),
        ("等等，这不对。待って、間違えた", {"等等": 1, "不对": 1, "待って": 1, "間違": 1}),
        ("esperanza, Fehlerhaftigkeit", {}),
    ],
)  # fmt: skip
def test_counts_whole_words(text: str, counts: dict[str, int]) -> None:
    assert count_reflection(text) == counts


def test_rate_is_per_thousand_words_of_all_texts() -> None:
    assert reflection_rate(["wait " + "word " * 9, "word " * 10]) == pytest.approx(50.0)
    assert reflection_rate([]) == 0.0


def test_each_marker_is_found_and_counted_once() -> None:
    for language, words in MARKERS.items():
        assert len(set(words)) == len(words), language
        for word in words:
            assert count_reflection(f"so, {word}, then") == {word: 1}, word


def test_the_documented_list_is_the_one_that_is_counted() -> None:
    page = (ROOT / "docs" / "reflection.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "“" in line]
    assert [row.count("“") for row in rows] == [len(words) for words in MARKERS.values()]
    for row, words in zip(rows, MARKERS.values(), strict=True):
        assert all(f"“{word}”" in row for word in words)


@pytest.mark.parametrize("text", ["wait " * 200_000, "等等" * 200_000])
def test_huge_texts_end_soon(text: str) -> None:
    started = time.process_time()
    count_reflection(text)
    assert time.process_time() - started < 15
