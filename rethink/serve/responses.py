"""From the engine's events to answers of the API, whole or streamed; both go through the same pieces of text."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rethink.errors import RethinkError
from rethink.model.text.thoughts import ThoughtSplitter
from rethink.serve.api_errors import ApiError
from rethink.serve.scoring import TokenLogprob
from rethink.serve.streamed_text import CompletionText, Decode
from rethink.serve.tickets import SCORED, Event, Mailbox, Ticket
from rethink.serve.tokens import TokenTexts

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Piece:
    """What is new of a choice."""

    choice: int
    thought: str = ""
    content: str = ""
    logprobs: Sequence[TokenLogprob | int] = ()
    """A bare id: the first token of an echoed prompt."""
    finish_reason: str | None = None


@dataclass(slots=True)
class _Choice:
    """A completion as it grows."""

    text: CompletionText
    splitter: ThoughtSplitter | None
    begun: str
    """What the first piece begins with."""


@dataclass(slots=True)
class Job:
    """A request of HTTP under way.

    Args:
        chat: whether its answer is a chat completion.
        model: name under which the model is served.
        fingerprint: of the server.
        prompts: ids of each prompt.
        n: completions of each; choices are numbered prompt by prompt.
        decode, texts: tokens to text.
        stop_strings: of the request.
        begun: what the prompt already holds of the assistant's turn; answers of a chat begin with it.
        echoes: texts of the prompts, where choices begin with them.
        top: alternatives wanted; None: no log-probabilities.
        generates: whether anything follows the echoed prompts.
    """

    chat: bool
    model: str
    fingerprint: str
    prompts: Sequence[Sequence[int]]
    n: int
    decode: Decode
    texts: TokenTexts
    stop_strings: Sequence[str] = ()
    begun: str = ""
    echoes: Sequence[str] | None = None
    top: int | None = None
    generates: bool = True
    id: str = ""
    created: int = 0
    completion_tokens: int = 0
    _choices: list[_Choice] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        self.created = int(time.time())
        self._choices = [
            _Choice(
                CompletionText(self.decode, self.stop_strings),
                ThoughtSplitter() if self.chat else None,
                self.begun,
            )
            for _ in range(len(self.prompts) * self.n)
        ]

    @property
    def scores(self) -> bool:
        """Whether echoed prompts have log-probabilities."""
        return self.echoes is not None and self.top is not None

    async def pieces(self, tickets: Sequence[Ticket], mailbox: Mailbox) -> AsyncGenerator[Piece, None]:
        """What the tickets, submitted before, give, in the order in which it comes; an echo is a choice's first piece.

        Raises:
            Exception: whatever broke the engine.
        """
        if self.echoes is not None and not self.scores:
            for choice in range(len(self._choices)):
                yield self._echo(choice, [])
        early: dict[int, list[Event]] = {i: [] for i in range(len(self.prompts))} if self.scores else {}
        left = sum(ticket.places for ticket in tickets)
        while left:
            for event in await mailbox.take():
                if event.failure is not None:
                    raise event.failure
                left -= event.last
                if event.sample == SCORED:
                    first = self.prompts[event.number][0]
                    for choice in range(event.number * self.n, (event.number + 1) * self.n):
                        yield self._echo(choice, [first, *event.logprobs])
                    for kept in early.pop(event.number):
                        yield self._piece(kept)
                elif event.number in early:  # its prompt is not scored yet, which comes first
                    early[event.number].append(event)
                else:
                    yield self._piece(event)

    def _echo(self, choice: int, logprobs: Sequence[TokenLogprob | int]) -> Piece:
        assert self.echoes is not None
        reason = None if self.generates else "length"
        return Piece(choice, content=self.echoes[choice // self.n], logprobs=logprobs, finish_reason=reason)

    def _piece(self, event: Event) -> Piece:
        number = event.number * self.n + event.sample
        choice, end = self._choices[number], event.completion
        if end is None:
            text = choice.text.push(event.token_ids)
        else:
            text = choice.text.finish(end.text)
            self.completion_tokens += len(end.token_ids)
        thought, content = "", text
        if choice.splitter is not None:
            thought, content = choice.splitter.push(choice.begun + text, last=end is not None)
            choice.begun = ""
        return Piece(number, thought, content, event.logprobs, None if end is None else end.finish_reason)

    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        prompt = sum(len(ids) for ids in self.prompts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
        }

    # Whole answers

    async def whole(self, tickets: Sequence[Ticket], mailbox: Mailbox) -> dict[str, Any]:
        """The answer, once all of it is there.

        Raises:
            ApiError: the engine broke.
        """
        thoughts = [""] * len(self._choices)
        contents = [""] * len(self._choices)
        logprobs: list[list[TokenLogprob | int]] = [[] for _ in self._choices]
        reasons = ["length"] * len(self._choices)
        try:
            async with aclosing(self.pieces(tickets, mailbox)) as pieces:
                async for piece in pieces:
                    thoughts[piece.choice] += piece.thought
                    contents[piece.choice] += piece.content
                    logprobs[piece.choice] += piece.logprobs
                    reasons[piece.choice] = piece.finish_reason or reasons[piece.choice]
        except Exception as error:
            raise as_api_error(error) from error
        choices = []
        for i, (thought, content, entries, reason) in enumerate(
            zip(thoughts, contents, logprobs, reasons, strict=True)
        ):
            choice: dict[str, Any] = {"index": i, "logprobs": self._logprobs(entries, 0)[0], "finish_reason": reason}
            if self.chat:
                choice["message"] = {"role": "assistant", "content": content}
                if thought:
                    choice["message"]["reasoning_content"] = thought
            else:
                choice["text"] = content
            choices.append(choice)
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": self.usage()}

    # Streams

    async def stream(
        self, tickets: Sequence[Ticket], mailbox: Mailbox, *, include_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events. A failure of the engine is the last of them but for `[DONE]`."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        extra = {"usage": None} if include_usage else {}
        offsets = [0] * len(self._choices)
        try:
            async with aclosing(self.pieces(tickets, mailbox)) as pieces:
                if self.chat:
                    first = {"role": "assistant", "content": ""}
                    for i in range(len(self._choices)):
                        yield _sse(head | {"choices": [_chunk(i, first)]} | extra)
                async for piece in pieces:
                    logprobs, offsets[piece.choice] = self._logprobs(piece.logprobs, offsets[piece.choice])
                    if not (piece.thought or piece.content or logprobs or piece.finish_reason):
                        continue
                    yield _sse(head | {"choices": [self._streamed(piece, logprobs)]} | extra)
                if include_usage:
                    yield _sse(head | {"choices": [], "usage": self.usage()})
        except Exception as error:
            yield _sse(as_api_error(error).body())
        yield DONE

    def _streamed(self, piece: Piece, logprobs: dict[str, Any] | None) -> dict[str, Any]:
        if not self.chat:
            entry = {"index": piece.choice, "text": piece.content, "logprobs": logprobs}
            return entry | {"finish_reason": piece.finish_reason}
        delta: dict[str, str] = {}
        if piece.thought:
            delta["reasoning_content"] = piece.thought
        if piece.content or (logprobs and not piece.thought):
            delta["content"] = piece.content
        return _chunk(piece.choice, delta, logprobs, piece.finish_reason)

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _logprobs(self, entries: Sequence[TokenLogprob | int], offset: int) -> tuple[dict[str, Any] | None, int]:
        """The field `logprobs`, None where none is wanted or there; and the characters up to there."""
        if self.top is None or not entries:
            return None, offset
        if self.chat:
            return self.texts.chat([e for e in entries if isinstance(e, TokenLogprob)]), 0
        return self.texts.text(entries, self.top, offset)


def _chunk(
    index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None, reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _sse(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def as_api_error(error: Exception) -> ApiError:
    """The error object that a client receives."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RethinkError):
        return ApiError(500, f"the engine failed: {error}", code="engine_failure")
    return ApiError(500, "the engine failed; the server's log says why", code="internal_error")
