"""Thoughts told from answers however the pieces fall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.chat.text import ThoughtSplitter, split_turn

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


@given(st.sampled_from([t for t in TURNS if "elsewhere" not in t[0]]), st.lists(st.integers(1, 4), max_size=60))
def test_the_pieces_may_fall_anywhere(turn: tuple[str, str | None, str], sizes: list[int]) -> None:
    text, thought, answer = turn
    splitter = ThoughtSplitter()
    pieces, at = [], 0
    for size in [*sizes, len(text)]:
        pieces += splitter.feed(text[at : at + size])
        at += size
    pieces += splitter.end()
    joined = {part: "".join(p for q, p in pieces if q == part).strip() for part in ("thought", "answer")}
    assert joined == {"thought": thought or "", "answer": answer}


def test_text_is_handed_on_as_soon_as_it_is_known() -> None:
    splitter = ThoughtSplitter()
    assert splitter.feed("<th") == []
    assert splitter.feed("ink>I s") == [("thought", "I s")]
    assert splitter.feed("ee</t") == [("thought", "ee")]
    assert splitter.feed("he</think>") == [("thought", "</the")]
    assert splitter.feed("\n\n") == []
    assert splitter.feed("four") == [("answer", "four")]
    assert splitter.end() == []
