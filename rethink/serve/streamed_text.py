"""A completion's text while it is generated: whole characters, no part of a stop string, thoughts apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rethink.model.text.thoughts import held_back

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
