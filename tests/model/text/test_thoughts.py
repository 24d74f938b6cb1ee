"""Thoughts told from answers: at once, however the pieces fall, and put together again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.model.text.thoughts import ThoughtSplitter, after_thought, split_turn, with_thought

sizes = st.lists(st.integers(1, 5), max_size=20)


def _cut(text: str, lengths: list[int]) -> Iterator[str]:
    for length in lengths:
        yield text[:length]
        text = text[length:]
    yield text


@pytest.mark.parametrize(
    ("turn", "after", "unended"),
    [
        ("<think>a</think>b", "b", "b"),
        ("<think>a</think>b</think> c", " c", " c"),
        ("a</think>b", "b", "b"),
        ("plain", "plain", "plain"),
        ("<think>never ends", None, "<think>never ends"),
    ],
)
def test_what_is_said_after_the_thought(turn: str, after: str | None, unended: str) -> None:
    assert after_thought(turn) == after
    assert after_thought(turn, unended=True) == unended


@pytest.mark.parametrize(("thought", "content"), [("why", "4"), (None, "4"), ("why", "")])
def test_a_thought_that_came_apart_is_found_again(thought: str | None, content: str) -> None:
    assert split_turn(with_thought(thought, content, cut=False)) == (thought, content)
    cut = with_thought(thought, content, cut=True)
    assert after_thought(cut) is None if thought and not content else split_turn(cut) == (thought, content)


TURNS = [
    ("Hello.", None, "Hello."),
    ("<think>why</think>because", "why", "because"),
    ("\n <think>\nwhy\n</think>\n\n<answer>4</answer>", "why", "<answer>4</answer>"),
    ("<think>never ends", "never ends", ""),
    ("<think></think>4", "", "4"),
    ("<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
    ("<thinking>x", None, "<thinking>x"),
    ("<thi", None, "<thi"),
    ("a < b </thin", None, "a < b </thin"),
    ("the tag <think> opens", None, "the tag <think> opens"),
    ("opened elsewhere</think>4", "opened elsewhere", "4"),
    ("", None, ""),
]


@pytest.mark.parametrize(("text", "thought", "answer"), TURNS)
def test_a_turn_is_thought_and_answer(text: str, thought: str | None, answer: str) -> None:
    assert split_turn(text) == (thought, answer)


THOUGHTS = [
    ("<think>a b</think>c", False, "a b", "c"),
    ("  <think>\n a\n</think>\n\n c \n", False, "a", "c \n"),
    ("a</think> c", True, "a", "c"),
    ("<think>never ends ", False, "never ends", ""),
    ("no thought <think>x</think>", False, "", "no thought <think>x</think>"),
    ("  plain", False, "", "  plain"),
    ("<thin", False, "", "<thin"),
    ("<think>a </thin b</think>c</think>d", False, "a </thin b", "c</think>d"),
    ("<think></think>", False, "", ""),
    ("<think>a<think>b</think>", False, "a<think>b", ""),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "opened", "thought", "content"), THOUGHTS)
def test_thought_and_content(text: str, opened: bool, thought: str, content: str) -> None:
    assert ThoughtSplitter(opened).push(text, last=True) == (thought, content)


parts_of_turns = st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "中"])


@given(st.lists(parts_of_turns, max_size=14), st.booleans(), sizes)
def test_thoughts_in_pieces_are_those_at_once(parts: list[str], opened: bool, sizes: list[int]) -> None:
    text = "".join(parts)
    splitter = ThoughtSplitter(opened)
    given_ = [splitter.push(piece) for piece in _cut(text, sizes)] + [splitter.push("", last=True)]
    together = tuple("".join(part) for part in zip(*given_, strict=True))
    assert together == ThoughtSplitter(opened).push(text, last=True)


def test_text_is_handed_on_as_soon_as_it_is_known() -> None:
    splitter = ThoughtSplitter()
    pieces = ("<th", "ink>I s", "ee</t", "he</think>", "\n\n", "four")
    assert [splitter.push(piece) for piece in pieces] == [
        ("", ""), ("I s", ""), ("ee", ""), ("</the", ""), ("", ""), ("", "four")
    ]  # fmt: skip
    assert splitter.push("", last=True) == ("", "")
