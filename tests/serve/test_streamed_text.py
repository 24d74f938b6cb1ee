"""Text in pieces is the text at once: characters over several tokens, stop strings, thoughts."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.model.text.thoughts import held_back
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.serve.streamed_text import CompletionText, TokenText
from rethink.serve.tokens import TokenTexts


def cut(items: Sequence, sizes: list[int]) -> list[Sequence]:
    pieces, start = [], 0
    for size in sizes:
        pieces.append(items[start : start + size])
        start += size
    return [*pieces, items[start:]]


def as_bytes(ids: Sequence[int]) -> str:
    """Every token is one byte, as in the worst of vocabularies."""
    return bytes(ids).decode("utf-8", "replace")


sizes = st.lists(st.integers(1, 5), max_size=120)


@given(st.text(max_size=150), sizes)
def test_text_of_tokens_in_pieces_is_the_whole_text(text: str, sizes: list[int]) -> None:
    stream = TokenText(as_bytes)
    pieces = [stream.push(piece) for piece in cut(list(text.encode()), sizes)]
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)


@given(st.text(max_size=60), sizes)
def test_text_of_real_tokens_in_pieces_is_the_whole_text(
    small_tokenizer: Tokenizer, text: str, sizes: list[int]
) -> None:
    ids = small_tokenizer.encode(text)
    stream = TokenText(small_tokenizer.decode)
    assert "".join(stream.push(piece) for piece in cut(ids, sizes)) == small_tokenizer.decode(ids)


def test_a_character_is_held_until_it_is_whole() -> None:
    stream = TokenText(as_bytes)
    assert [stream.push([b]) for b in "a中😀".encode()] == ["a", "", "", "中", "", "", "", "😀"]


def test_bytes_that_are_no_text_are_not_held_for_ever() -> None:
    stream = TokenText(as_bytes)
    given_ = "".join(stream.push([255]) for _ in range(1000))
    assert len(given_) >= 900
    assert stream.push([97, 98]).endswith("ab")


def test_the_cost_of_a_token_does_not_grow() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return as_bytes(ids)

    stream = TokenText(decode)
    for b in b"word " * 500:
        stream.push([b])
    assert longest < 60


@pytest.mark.parametrize(
    ("text", "marks", "size"),
    [("abc", ("cd",), 1), ("abc", ("bcd", "cx"), 2), ("abc", ("abc",), 0), ("aaa", ("aaaa",), 3), ("", ("a",), 0)],
)
def test_what_could_begin_a_stop_string_is_held_back(text: str, marks: tuple[str, ...], size: int) -> None:
    assert held_back(text, marks) == size


@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), sizes)
def test_no_part_of_a_stop_string_is_shown(text: str, stops: list[str], sizes: list[int]) -> None:
    """As the engine does: the tokens before the one that completes a stop string are streamed, then comes the end."""
    ends = [i for i in range(len(text) + 1) if any(s in text[:i] for s in stops)]
    streamed = text[: ends[0] - 1] if ends else text
    whole = text[: ends[0]] if ends else text
    final = whole[: min([whole.index(s) for s in stops if s in whole], default=len(whole))]
    stream = CompletionText(as_bytes, stops)
    shown = ""
    for piece in cut(streamed.encode(), sizes):
        shown += stream.push(piece)
        assert final.startswith(shown)
    assert shown + stream.finish(final) == final


def test_tokens_have_their_bytes(small_tokenizer: Tokenizer) -> None:
    texts = TokenTexts(small_tokenizer)
    for text in ("a word", "中文", "😀 é", "<|im_end|>"):
        ids = small_tokenizer.encode(text)
        assert b"".join(texts.of(i)[1] or b"?" for i in ids) == text.encode()
        for i in ids:
            assert texts.name(i) == texts.of(i)[0] or texts.name(i).startswith("bytes:\\x")
