"""The readability score and its parts."""

from __future__ import annotations

import pytest

from rethink.eval.readability import readability

GOOD = "<think>We add two and three, which gives five.</think>\n<answer>5</answer>"


def test_a_good_turn_gets_everything() -> None:
    rated = readability(GOOD, truncated=False)
    assert (rated.tags, rated.repetition, rated.length, rated.mixing) == (1, 1, 1, 1)
    assert rated.score == 1


def test_each_fault_lowers_its_own_part() -> None:
    assert readability(GOOD + "</think>", truncated=False).tags == pytest.approx(0.375)
    assert readability("no tags at all here", truncated=False).tags == 0
    looping = readability("<think>" + "again and " * 50 + "</think><answer>5</answer>", truncated=False)
    assert looping.repetition < 0.1
    assert looping.tags == 1
    assert readability(GOOD, truncated=True).length == 0
    long = readability(
        "<think>" + " ".join(f"word{i}" for i in range(224)) + "</think><answer>5</answer>", truncated=False
    )
    assert 0.4 < long.length < 0.6
    mixed = "<think>We add the numbers. Мы складываем числа вместе и получаем пять.</think><answer>5</answer>"
    assert readability(mixed, truncated=False).mixing == pytest.approx(0.36, abs=0.1)


def test_without_words_mixing_has_no_part() -> None:
    rated = readability("<think>2 + 3 = 5</think><answer>5</answer>", truncated=False)
    assert rated.mixing is None
    assert rated.score == 1


@pytest.mark.parametrize("turn", ["", "<think>", "\ud800", "\x00" * 1000, "<answer>" * 500])
def test_anything_can_be_rated(turn: str) -> None:
    assert 0 <= readability(turn, truncated=False).score <= 1
