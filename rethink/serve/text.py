"""A completion's text while it is generated: whole characters, no part of a stop string, thoughts apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rethink.model.chat import END_THINK, THINK

Decode = Callable[[Sequence[int]], str]
_WINDOW = 48
"""Tokens decoded again at most, so that the cost of a token does not grow with the text."""
_CONTEXT = 8
"""Tokens kept before the new ones: decoders treat the beginning of a text differently."""
_BROKEN = "\ufffd"
_LONGEST_BROKEN = 3
"""Bytes of a character that is not there yet, hence replacement characters that may still change."""


class TokenText:
    """Text of tokens as they come. The texts it gives, put together, are the text of all tokens.

    The end of a text whose last character is not whole yet is held back. (Bytes that are no UTF-8 at all may give
    another number of replacement characters than decoded at once.)
    """

    def __init__(self, decode: Decode):
        self._decode = decode
        self._ids: list[int] = []
        self._given = 0
        """Characters of the window's text that were given."""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain now and was not given yet."""
        self._ids.extend(token_ids)
        text = self._decode(self._ids)
        broken = len(text) - len(text.rstrip(_BROKEN))
        certain = len(text) - min(broken, _LONGEST_BROKEN)
        new = text[self._given : certain]
        self._given = max(self._given, certain)
        if len(self._ids) > _WINDOW and (not broken or len(self._ids) > 4 * _WINDOW):
            del self._ids[:-_CONTEXT]
            self._given = len(self._decode(self._ids))
        return new


def held_back(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of the text with which one of the marks could begin (never a whole mark)."""
    longest = min(len(text), max((len(mark) for mark in marks), default=0))
    for size in range(longest, 0, -1):
        end = text[len(text) - size :]
        if any(len(mark) > size and mark.startswith(end) for mark in marks):
            return size
    return 0


class CompletionText:
    """Text of one completion in pieces; put together they are the engine's text of it."""

    def __init__(self, decode: Decode, stop_strings: Sequence[str]):
        self._tokens = TokenText(decode)
        self._stops = stop_strings
        self._held = ""
        self._given = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """What can be shown of the text with these further tokens, none of which ended the completion."""
        self._held += self._tokens.push(token_ids)
        size = len(self._held) - (held_back(self._held, self._stops) if self._stops else 0)
        new, self._held = self._held[:size], self._held[size:]
        self._given += len(new)
        return new

    def finish(self, text: str) -> str:
        """What is missing of the completion's final text."""
        return text[self._given :]


class ThoughtSplitter:
    """Divides a turn into its thought, between `<think>` and `</think>`, and its content, piece by piece.

    A thought is what the turn begins with; white space around it belongs to neither. A turn without one is all content,
    unchanged. A thought that never ends leaves no content.

    Args:
        opened: whether the prompt already ended with `<think>`.
    """

    def __init__(self, opened: bool = False):
        self._state = "thought" if opened else "begin"
        self._held = ""
        self._begun = False
        """Whether anything of the present part was given."""

    def push(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """Further thought and content; `last` gives out what was held back."""
        self._held += text
        thought = content = ""
        if self._state == "begin":
            self._begin(last)
        if self._state == "thought":
            thought = self._think(last)
        if self._state == "between":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "content"
        if self._state == "content":
            content, self._held = self._held, ""
        return thought, content

    def _begin(self, last: bool) -> None:
        seen = self._held.lstrip()
        if seen.startswith(THINK):
            self._state, self._held = "thought", seen[len(THINK) :]
        elif last or not THINK.startswith(seen):
            self._state = "content"

    def _think(self, last: bool) -> str:
        body, closed, after = self._held.partition(END_THINK)
        if not self._begun:
            body = body.lstrip()
        if closed:
            self._state, self._held = "between", after
            return body.rstrip()
        certain = body if last else body[: len(body) - held_back(body, (END_THINK,))]
        new = certain.rstrip()
        self._begun = self._begun or bool(new)
        self._held = body[len(new) :]
        return new


def split_thought(text: str, opened: bool) -> tuple[str, str]:
    """Thought and content of a whole turn; see `ThoughtSplitter`."""
    return ThoughtSplitter(opened).push(text, last=True)
