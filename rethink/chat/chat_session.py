"""A conversation that is going on: messages and commands in, answers out.

line ─► command, or turn ─► oldest turns left out where the context is full ─► backend ─► pieces ─► screen
"""

from __future__ import annotations

import dataclasses
import difflib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rethink.chat.conversation import Conversation, Turn
from rethink.chat.partner import ChatBackend, Ended, Settings, Stopped, TooLong
from rethink.chat.screen import Screen
from rethink.errors import EngineFailure, UsageError
from rethink.model.text.thoughts import ThoughtSplitter
from rethink.terminal import stop_on_interrupt

HELP = """\
/help              this list
/retry             draw the last answer again
/undo              take the last message and its answer back
/reset             forget the conversation (the system message stays)
/system [TEXT]     show or set the system message; /system - removes it
/think             fold or unfold thoughts; unfolding shows the last one
/set [NAME=VALUE]  show or set temperature, top_p, top_k, max_new_tokens, seed
/save FILE         write the conversation: Markdown (.md), else JSON with `messages`
/exit              leave (so does Ctrl-D)
A message that begins with a slash is written with two: //home is a folder."""
_LIMITS: dict[str, tuple[Callable[[str], float], float, float]] = {
    "temperature": (float, 0.0, 100.0),
    "top_p": (float, 0.0, 1.0),
    "top_k": (int, 0, 1 << 20),
    "max_new_tokens": (int, 1, 1 << 24),
    "seed": (int, 0, 1 << 62),
}


class Session:
    """One conversation with one backend on one screen.

    Args:
        backend: who answers.
        screen: where things are shown.
        settings: how answers are drawn.
        system: system message, or None.
    """

    def __init__(self, backend: ChatBackend, screen: Screen, settings: Settings, system: str | None = None):
        self.backend, self.screen, self.settings = backend, screen, settings
        self.conversation = Conversation(system)
        self.unanswered: str | None = None
        """The last message, where the backend failed to answer it: `/retry` asks again."""
        self._commands: dict[str, Callable[[str], bool]] = {
            "help": self._help,
            "retry": self._retry,
            "undo": self._undo,
            "reset": self._reset,
            "system": self._system,
            "think": self._think,
            "set": self._set,
            "save": self._save,
            "exit": lambda _: False,
            "quit": lambda _: False,
        }

    def take(self, line: str) -> bool:
        """Carry out a command, or send a message and show the answer. False: the user leaves.

        Raises:
            UsageError: the command or the request cannot be carried out; nothing has changed.
            EngineFailure: the backend broke; `/retry` asks again.
        """
        text = line.encode("utf-8", "replace").decode("utf-8").strip()
        if not text:
            return True
        if text.startswith("/") and not text.startswith("//"):
            name, _, rest = text[1:].partition(" ")
            return self._command(name)(rest.strip())
        self.ask(text[1:] if text.startswith("//") else text)
        return True

    def ask(self, text: str) -> Turn:
        """Send a message, show the answer while it comes, and keep both.

        Raises:
            UsageError: it is too long, or refused; it is taken back.
            EngineFailure: the backend broke; the message is kept for `/retry`.
        """
        conversation, started = self.conversation, time.monotonic()
        turn = Turn(text)
        conversation.turns.append(turn)
        self.unanswered = None
        seed = self.settings.seed + conversation.draws
        conversation.draws += 1
        try:
            self._fit()
            ended = self._draw(turn, seed)
        except BaseException as error:
            conversation.undo()
            if isinstance(error, EngineFailure):
                self.unanswered = text
            raise
        turn.ended = ended.how
        self.screen.done(turn, ended, time.monotonic() - started)
        return turn

    # Answers

    def _fit(self) -> None:
        """Leave out the oldest turns until there is room for the answer, or for a quarter of the context."""
        context = self.backend.context
        if context is not None:
            room = min(self.settings.max_new_tokens, context // 4)
            self._said_left_out(self.conversation.fit(self.backend.count, context - room))

    def _draw(self, turn: Turn, seed: int) -> Ended:
        while True:
            try:
                with stop_on_interrupt() as stopped:
                    return self._stream(turn, seed, stopped)
            except TooLong as error:
                if not self.conversation.leave_out_one():
                    raise TooLong(f"{error}: this message alone is too long for it; shorten it") from error
                self._said_left_out(1)

    def _stream(self, turn: Turn, seed: int, stopped: Stopped) -> Ended:
        messages, splitter = self.conversation.messages(), ThoughtSplitter()
        pieces: list[str] = []

        def on_text(text: str) -> None:
            pieces.append(text)
            self._show(*splitter.push(text))

        self.screen.begin()
        try:
            ended = self.backend.answer(messages, self.settings, seed, on_text, stopped)
            self._show(*splitter.push("", last=True))
        except BaseException:
            self.screen.broken()
            raise
        turn.raw = "".join(pieces)
        return ended

    def _show(self, thought: str, answer: str) -> None:
        if thought:
            self.screen.piece("thought", thought)
        if answer:
            self.screen.piece("answer", answer)

    def _said_left_out(self, number: int) -> None:
        if number:
            self.screen.note(
                f"the context{'' if self.backend.context is None else f' of {self.backend.context:,} tokens'} is full: "
                f"the oldest {number} turn{'s are' if number > 1 else ' is'} not sent any more"
            )

    # Commands

    def _command(self, name: str) -> Callable[[str], bool]:
        found = self._commands.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self._commands, n=1)
            meant = f"did you mean /{near[0]}? " if near else ""
            raise UsageError(f"there is no command /{name}; {meant}/help lists them; // begins a message with a slash")
        return found

    def _help(self, _: str) -> bool:
        self.screen.note(HELP)
        return True

    def _retry(self, _: str) -> bool:
        text = self.unanswered
        if text is None:
            turn = self.conversation.undo()
            if turn is None:
                raise UsageError("nothing has been asked yet, so there is nothing to draw again")
            text = turn.user
            if self.settings.temperature == 0:
                self.screen.note("temperature is 0: the answer will be the same; /set temperature=0.6 changes that")
        self.ask(text)
        return True

    def _undo(self, _: str) -> bool:
        turn = self.conversation.undo()
        if turn is None:
            raise UsageError("nothing has been asked yet, so there is nothing to take back")
        self.screen.note(f"taken back: {turn.user[:60]}")
        return True

    def _reset(self, _: str) -> bool:
        self.conversation.reset()
        self.unanswered = None
        self.screen.note("the conversation begins anew")
        return True

    def _system(self, text: str) -> bool:
        if text:
            self.conversation.system = None if text == "-" else text
        shown = self.conversation.system
        self.screen.note("there is no system message" if shown is None else f"system message: {shown}")
        return True

    def _think(self, _: str) -> bool:
        self.screen.folded = not self.screen.folded
        last = self.conversation.turns[-1].thought if self.conversation.turns else None
        if self.screen.folded:
            self.screen.note("thoughts are folded")
        else:
            self.screen.note("thoughts are shown")
            if last:
                self.screen.thought(last)
        return True

    def _set(self, text: str) -> bool:
        if text:
            self.settings = changed(self.settings, text)
        values = dataclasses.asdict(self.settings)
        self.screen.note(", ".join(f"{name}={value}" for name, value in values.items()))
        return True

    def _save(self, text: str) -> bool:
        if not text:
            raise UsageError("/save needs a file, e.g. /save chat.md or /save chat.json")
        path = Path(text).expanduser()
        about: dict[str, Any] = {"model": self.backend.name, "settings": dataclasses.asdict(self.settings)}
        self.conversation.save(path, about)
        self.screen.note(f"saved to {path}")
        return True


def changed(settings: Settings, text: str) -> Settings:
    """The settings after `name=value …`.

    Raises:
        UsageError: an unknown name, or a value outside what is allowed.
    """
    values: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if name not in _LIMITS or not equals:
            raise UsageError(f"/set {word!r} is not name=value with one of {', '.join(_LIMITS)}")
        read, low, high = _LIMITS[name]
        try:
            number = read(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high or (name == "top_p" and number == 0):
            kind = "a whole number" if read is int else "a number"
            raise UsageError(f"/set {name}={value}: give {kind} from {low:g} to {high:g}")
        values[name] = number
    return dataclasses.replace(settings, **values)
