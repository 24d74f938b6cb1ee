"""Backends and screens for tests of conversations."""

from __future__ import annotations

from collections.abc import Callable

from rethink.chat.conversation import Messages, Turn
from rethink.chat.partner import Ended, OnText, Settings, Stopped, TooLong
from rethink.chat.screen import Part

Reply = Callable[[Messages, Stopped, OnText], Ended | str]


class Partner:
    """Answers by a function of the messages; a text is handed over in pieces of three letters. A word is a token."""

    name = "partner"

    def __init__(self, reply: Reply, context: int | None = None, *, tells: bool = True):
        self.reply, self.context, self.tells = reply, context, tells
        self.asked: list[tuple[list[dict[str, str]], Settings, int]] = []

    def count(self, messages: Messages) -> int:
        return sum(len(message["content"].split()) for message in messages)

    def answer(self, messages: Messages, settings: Settings, seed: int, on_text: OnText, stopped: Stopped) -> Ended:
        self.asked.append(([dict(m) for m in messages], settings, seed))
        if self.context is not None and self.count(messages) >= self.context:
            raise TooLong("too long")
        result = self.reply(messages, stopped, on_text)
        if isinstance(result, Ended):
            return result
        for start in range(0, len(result), 3):
            on_text(result[start : start + 3])
            if stopped():
                return Ended("stopped", None)
        return Ended("stop", len(result.split()))


class Record:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.folded = False
        self.notes: list[str] = []
        self.pieces: list[tuple[Part, str]] = []
        self.thoughts: list[str] = []
        self.ended: list[Ended] = []
        self.breaks = 0

    def begin(self) -> None:
        self.pieces = []

    def piece(self, part: Part, text: str) -> None:
        self.pieces.append((part, text))

    def done(self, turn: Turn, ended: Ended, seconds: float) -> None:
        self.ended.append(ended)

    def broken(self) -> None:
        self.breaks += 1

    def thought(self, text: str) -> None:
        self.thoughts.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
