"""Any OpenAI-compatible endpoint as a partner: `/chat/completions` with `stream`.

The stream is read in a thread of its own, so that Ctrl-C is answered at once even while the endpoint is silent.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from rethink.chat.conversation import Messages
from rethink.chat.partner import Ended, OnText, Settings, Stopped, TooLong
from rethink.endpoint.client import command_line_client
from rethink.endpoint.reply import NoReply
from rethink.errors import EngineFailure, RethinkError

ATTEMPTS = 3
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
        UsageError: the URL is none.
    """

    context: int | None = None

    def __init__(self, model: str, url: str):
        self.name, self._url = model, url
        self._client = command_line_client(model, url, seconds=SECONDS, attempts=ATTEMPTS, concurrency=8)

    def count(self, messages: Messages) -> int:
        """Not known: the endpoint refuses what is too long."""
        return 0

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        """See `ChatBackend`. Top-k is sent only where it is set, since not every endpoint knows it."""
        pieces: queue.SimpleQueue[str | Ended | Exception] = queue.SimpleQueue()
        leave = threading.Event()
        options: dict[str, Any] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": seed,
        } | ({"top_k": settings.top_k} if settings.top_k else {})

        def tell(text: str) -> None:
            if leave.is_set():
                raise InterruptedError
            pieces.put(text)

        def read() -> None:
            """In its own thread: the stream, until it ends or nobody wants it any more."""
            try:
                pieces.put(Ended("length" if self._client.stream(messages, options, tell) else "stop", None))
            except Exception as error:  # whatever it is, the thread that waits must hear of it
                pieces.put(error)

        threading.Thread(target=read, daemon=True, name="endpoint").start()
        try:
            return self._hand_over(pieces, on_text, stopped)
        finally:
            leave.set()

    def _hand_over(
        self, pieces: queue.SimpleQueue[str | Ended | Exception], on_text: OnText, stopped: Stopped
    ) -> Ended:
        while not stopped():
            try:
                piece = pieces.get(timeout=_POLL)
            except queue.Empty:
                continue
            if isinstance(piece, NoReply):
                raise self._explained(piece) from piece
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, Ended):
                return piece
            on_text(piece)
        return Ended("stopped", None)

    def _explained(self, failure: NoReply) -> RethinkError:
        if failure.status in (400, 413, 422) and any(words in failure.detail.lower() for words in _TOO_LONG):
            return TooLong(f"the endpoint {self._url} says that the conversation is too long ({failure.detail})")
        return self._client.explained(failure, "see /set") or EngineFailure(
            f"the endpoint {self._url} did not answer to the end ({failure.detail}); the conversation is kept: /retry "
            "asks again"
        )
