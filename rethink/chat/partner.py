"""Who answers: any model in this process here, any endpoint in `endpoint_partner.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rethink.chat.conversation import How, Messages
from rethink.errors import ModelError, UsageError
from rethink.eval.backend import EngineBackend
from rethink.model.trained import render_messages, renderer_of
from rethink.serve.streamed_text import CompletionText
from rethink.types import GenerationRequest, Prompt, SamplingParams

OnText = Callable[[str], None]
Stopped = Callable[[], bool]


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
    """A rollout engine in this process. The model is asked as it was trained, else by its chat template.

    Args:
        backend: the loaded model.

    Raises:
        UsageError: the model has no chat template, or one that fails, or it does not fit how it was trained.
    """

    def __init__(self, backend: EngineBackend):
        self.name = backend.model
        self._engine, self._tokenizer = backend.engine, backend.tokenizer
        self.context: int | None = backend.engine.context
        self._stop_strings = () if backend.trained is None else backend.trained.stop_strings
        self._renderer = renderer_of(backend.model, self._tokenizer, backend.trained, backend.engine.context)
        if self._renderer is not None:
            return
        if self._tokenizer.chat_template is None:
            raise ModelError(
                f"the model {self.name} has no chat template (it is probably a base model), so it cannot hold a "
                f"conversation; continue a text with `rethink sample --model {self.name} --raw`, or give an "
                "instruction-tuned model"
            )
        self._tokenizer.render_chat([{"role": "user", "content": "?"}], add_generation_prompt=True)

    def count(self, messages: Messages) -> int:
        """See `ChatBackend`."""
        return len(self._render(messages).token_ids)

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        """See `ChatBackend`. An engine that draws whole completions at once answers in one piece."""
        prompt = self._render(messages)
        ids = prompt.token_ids
        room = self._engine.context - len(ids)
        if room < 1:
            raise TooLong(f"the conversation takes {len(ids)} tokens, and the model's context is {len(ids) + room}")
        ends = self._tokenizer.end_of_turn_ids
        params = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_new_tokens=min(settings.max_new_tokens, room),
            stop_strings=self._stop_strings,
            stop_token_ids=tuple(sorted(ends)),
        )
        if prompt.prefill:
            on_text(prompt.prefill)
        growing, drawn = CompletionText(self._tokenizer.decode, self._stop_strings), 0

        def on_token(_: int, token: int) -> None:
            nonlocal drawn
            drawn += 1
            if token not in ends:
                on_text(growing.push([token]))
            if stopped():
                raise _StopNow

        try:
            completion = self._engine.generate([GenerationRequest(ids, (seed,), params, on_token)])[0][0]
        except _StopNow:
            return Ended("stopped", drawn)
        on_text(growing.finish(completion.text))
        return Ended(completion.finish_reason, len(completion.token_ids))

    def _render(self, messages: Messages) -> Prompt:
        return render_messages(self._tokenizer, messages, self._renderer)
