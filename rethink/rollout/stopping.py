"""When a completion ends, and what text it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rethink.types import FinishReason, SamplingParams

Decode = Callable[[Sequence[int]], str]


def end_of(tokens: Sequence[int], params: SamplingParams, decode: Decode) -> FinishReason | None:
    """Why the completion ends with its newest token, or None while it goes on.

    A stop string is looked for in the text of the last tokens only: as many as could hold it.
    """
    if tokens[-1] in params.stop_token_ids:
        return "stop"
    if params.stop_strings:
        # A token is at least one byte, a character at most four: this many tokens cover any match that ends just now.
        longest = max(len(s.encode()) for s in params.stop_strings)
        tail = decode(tokens[-(longest + 4) :])
        if any(s in tail for s in params.stop_strings):
            return "stop"
    return "length" if len(tokens) >= params.max_new_tokens else None


def text_of(tokens: Sequence[int], reason: FinishReason, params: SamplingParams, decode: Decode) -> str:
    """Decoded text, without the end-of-turn token and cut before the first stop string."""
    if reason == "stop" and tokens and tokens[-1] in params.stop_token_ids:
        return decode(tokens[:-1])
    text = decode(tokens)
    if reason == "stop":
        ends = [place for s in params.stop_strings if (place := text.find(s)) >= 0]
        text = text[: min(ends)] if ends else text
    return text
