"""Text for a terminal, and thoughts told from answers however the pieces fall."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.chat.text import ThoughtSplitter, split_turn, visible

ATTACKS = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "eight-bit": "\x9b31m\x9d0;x\x9c",
    "answer back": "\x1b[6n\x1b[c\x05",
    "overwrite": "safe\rmore\x08\x08",
    "direction": "abc\u202ecod.exe\u2066x\u2069",
    "lines": "a\u2028b\u2029c\x0bd\x0ce",
    "surrogate": "a\ud800b",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert shown != text
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\n\t" for c in shown)
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
                   for c in shown)  # fmt: skip
    shown.encode("utf-8")


@given(st.text(alphabet=st.characters(), max_size=40), st.integers(0, 40))
def test_no_text_gets_through_and_pieces_are_shown_as_the_whole(text: str, cut: int) -> None:
    text = text.replace("\r", "")  # the one pair that is judged together
    assert visible(text[:cut]) + visible(text[cut:]) == visible(text)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in visible(text))


def test_harmless_text_stays() -> None:
    text = "Grüße, 世界! 👩🏽\u200d🚀\n\tif x:\n\t\treturn '%'  # עברית العربية"
    assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"
    assert visible("\x1b[31m") == "␛[31m"


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
