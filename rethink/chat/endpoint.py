"""Any OpenAI-compatible endpoint as a partner: `/chat/completions` with `stream`.

The stream is read in a thread of its own, so that Ctrl-C is answered at once even while the endpoint is silent. The
key comes from the environment, goes to that endpoint alone, and is written nowhere.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

from rethink.chat.backend import Ended, OnText, Settings, Stopped, TooLong
from rethink.chat.conversation import How, Messages
from rethink.errors import EngineFailure, RethinkError, UsageError
from rethink.eval.endpoint import KEY_VARIABLES
from rethink.model.thoughts import END_THINK, THINK

RETRIES = 2
SECONDS = 600.0
"""Without a word from the endpoint."""
_POLL = 0.05
"""Seconds between looks at whether the user wants to stop."""
_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "too many tokens")


class EndpointChat:
    """A model behind an endpoint.

    Args:
        model: its name there.
        url: the endpoint's base, which usually ends in `/v1`.

    Raises:
        UsageError: the package `openai` is missing, or the URL is none.
    """

    context: int | None = None

    def __init__(self, model: str, url: str):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {url!r} is no URL; give one like http://127.0.0.1:8000/v1")
        try:
            import openai
        except ImportError as error:
            raise UsageError(
                "an endpoint needs the package `openai`; install the extra: pip install 'rethink[eval]'"
            ) from error
        self._openai = openai
        self.name, self._url = model, url
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "none")
        self._client = openai.OpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=SECONDS)

    def count(self, messages: Messages) -> int:
        """Not known: the endpoint refuses what is too long."""
        return 0

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        """See `ChatBackend`. Top-k is sent only where it is set, since not every endpoint knows it."""
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        leave = threading.Event()
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": seed,
            "stream": True,
        }
        if settings.top_k:
            request["extra_body"] = {"top_k": settings.top_k}
        reader = threading.Thread(target=self._read, args=(request, pieces, leave), daemon=True, name="endpoint")
        reader.start()
        try:
            return self._hand_over(pieces, on_text, stopped)
        finally:
            leave.set()

    def _hand_over(self, pieces: queue.SimpleQueue[Any], on_text: OnText, stopped: Stopped) -> Ended:
        while True:
            if stopped():
                return Ended("stopped", None)
            try:
                piece = pieces.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(piece, Exception):
                raise self._explained(piece) from piece
            if isinstance(piece, _End):
                return Ended(piece.how, None)
            on_text(piece)

    def _read(self, request: dict[str, Any], pieces: queue.SimpleQueue[Any], leave: threading.Event) -> None:
        """In its own thread: the stream, until it ends or nobody wants it any more."""
        try:
            with self._client.chat.completions.create(**request) as stream:
                for piece in _texts(stream):
                    if leave.is_set():
                        return
                    pieces.put(piece)
        except Exception as error:  # whatever it is, the thread that waits must hear of it
            pieces.put(error)

    def _explained(self, error: Exception) -> RethinkError:
        openai = self._openai
        said = " ".join(str(error).split())[:300]  # the endpoint's words
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return UsageError(
                f"the endpoint {self._url} refuses the key ({said}); set it in the environment variable "
                f"{KEY_VARIABLES[0]}"
            )
        if isinstance(error, openai.NotFoundError):
            return UsageError(
                f"the endpoint {self._url} does not know the model {self.name!r} or the address ({said}); its models "
                f"are listed at {self._url.rstrip('/')}/models"
            )
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            if any(words in said.lower() for words in _TOO_LONG):
                return TooLong(f"the endpoint {self._url} says that the conversation is too long ({said})")
            return UsageError(f"the endpoint {self._url} refuses the request ({said}); see /set")
        return EngineFailure(
            f"the endpoint {self._url} did not answer to the end ({type(error).__name__}: {said}); the conversation is "
            "kept: /retry asks again"
        )


class _End:
    """The stream's end."""

    def __init__(self, how: How):
        self.how = how


def _texts(stream: Any) -> Iterator[str | _End]:
    """The pieces of a stream, thoughts that come in a field of their own put between tags, then its end."""
    thinking, reason = False, None
    for chunk in stream:
        choice = chunk.choices[0] if chunk.choices else None
        if choice is None:
            continue
        thought = getattr(choice.delta, "reasoning_content", None) or getattr(choice.delta, "reasoning", None)
        if isinstance(thought, str) and thought:
            yield thought if thinking else f"{THINK}\n{thought}"
            thinking = True
        if choice.delta.content:
            yield f"\n{END_THINK}\n\n{choice.delta.content}" if thinking else choice.delta.content
            thinking = False
        reason = choice.finish_reason or reason
    if reason is None:
        raise EOFError("the stream ended before the answer did")
    yield _End("length" if reason == "length" else "stop")
