"""Who answers: any model in this process here, any endpoint in `endpoint.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rethink.chat.conversation import How, Messages
from rethink.errors import ModelError, UsageError
from rethink.eval.backend import EngineBackend
from rethink.model.thoughts import THINK
from rethink.types import GenerationRequest, SamplingParams

OnText = Callable[[str], None]
Stopped = Callable[[], bool]
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 8
"""Tokens after which bytes that are no UTF-8 are shown as such, rather than waited for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How answers are drawn."""

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 0
    max_new_tokens: int = 2048
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended."""

    how: How
    tokens: int | None
    """None where the backend does not say."""


class TooLong(UsageError):
    """The conversation does not fit into the model's context."""


class ChatBackend(Protocol):
    """Answers conversations."""

    name: str
    """Of the model, as the user named it."""
    context: int | None
    """Longest conversation, in tokens; None where it is not known."""

    def count(self, messages: Messages) -> int:
        """Tokens that the conversation takes; 0 where it is not known."""
        ...

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        """Draw the next turn and hand it over in pieces, its thought between `<think>` and `</think>`.

        Args:
            messages: the conversation; the last one is the user's.
            settings: how it is drawn.
            seed: of this draw.
            on_text: told each piece, in the calling thread.
            stopped: asked often; once it says True the answer ends.

        Raises:
            TooLong: the conversation leaves no room for an answer.
            UsageError: the backend refuses the request.
            EngineFailure: it broke; pieces that came were handed over.
        """
        ...


class _StopNow(Exception):
    """Raised within a generation to end it."""


class EngineChat:
    """A rollout engine in this process, with the model's chat template.

    Args:
        backend: the loaded model.

    Raises:
        ModelError: the model has no chat template, or one that fails.
    """

    def __init__(self, backend: EngineBackend):
        self.name = backend.model
        self._engine, self._tokenizer = backend.engine, backend.tokenizer
        self.context: int | None = backend.engine.context
        if self._tokenizer.chat_template is None:
            raise ModelError(
                f"the model {self.name} has no chat template (it is probably a base model), so it cannot hold a "
                f"conversation; continue a text with `rethink sample --model {self.name} --raw`, or give an "
                "instruction-tuned model"
            )
        self._tokenizer.render_chat([{"role": "user", "content": "?"}], add_generation_prompt=True)

    def count(self, messages: Messages) -> int:
        """See `ChatBackend`."""
        return len(self._tokenizer.encode(self._render(messages)))

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        """See `ChatBackend`. An engine that draws whole completions at once answers in one piece."""
        prompt = self._render(messages)
        ids = tuple(self._tokenizer.encode(prompt))
        room = self._engine.context - len(ids)
        if room < 1:
            raise TooLong(f"the conversation takes {len(ids)} tokens, and the model's context is {len(ids) + room}")
        ends = self._tokenizer.end_of_turn_ids
        params = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_new_tokens=min(settings.max_new_tokens, room),
            stop_token_ids=tuple(sorted(ends)),
        )
        if prompt.rstrip().endswith(THINK):  # the template opens the thought
            on_text(prompt[prompt.rindex(THINK) :])
        growing = GrowingText(self._tokenizer.decode)

        def on_token(_: int, token: int) -> None:
            if token not in ends:
                on_text(growing.add(token))
            if stopped():
                raise _StopNow

        try:
            completion = self._engine.generate([GenerationRequest(ids, (seed,), params, on_token)])[0][0]
        except _StopNow:
            on_text(growing.rest())
            return Ended("stopped", len(growing.tokens))
        on_text(completion.text[len(growing.text) :] if completion.text.startswith(growing.text) else "")
        return Ended(completion.finish_reason, len(completion.token_ids))

    def _render(self, messages: Messages) -> str:
        return self._tokenizer.render_chat(messages, add_generation_prompt=True)


class GrowingText:
    """The text of tokens that come one by one, each piece as soon as it cannot change any more.

    A character may be spread over several tokens, and some decoders drop the space before the first one; so a piece is
    the difference between two texts, decoded from the same place a little before.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode = decode
        self.tokens: list[int] = []
        self.text = ""
        """All pieces so far."""
        self._from = self._shown = 0

    def add(self, token: int) -> str:
        """What the token adds to the text; nothing while a character is incomplete."""
        self.tokens.append(token)
        waiting = len(self.tokens) - self._shown
        return self._piece(wait=waiting < _LONGEST_CHARACTER)

    def rest(self) -> str:
        """What was held back."""
        return self._piece(wait=False)

    def _piece(self, *, wait: bool) -> str:
        before = self._decode(self.tokens[self._from : self._shown])
        now = self._decode(self.tokens[self._from :])
        if wait and now.endswith(_REPLACEMENT):
            return ""
        self._from, self._shown = self._shown, len(self.tokens)
        piece = now[len(before) :]
        self.text += piece
        return piece
