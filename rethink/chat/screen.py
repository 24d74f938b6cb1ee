"""Where a conversation is shown: a terminal, a pipe, or JSON lines for programs.

Everything is printed by `rethink.terminal`, which makes visible what a model or an endpoint wrote.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from rethink.terminal import json_text, make_console, say, visible

if TYPE_CHECKING:
    from rethink.chat.conversation import Turn
    from rethink.chat.partner import Ended

Part = Literal["thought", "answer"]
STOPPED, CUT = "[stopped]", "[cut at the token limit: /set max_new_tokens=…]"


class Screen(Protocol):
    """Shows answers while they come."""

    folded: bool
    """Whether thoughts are left out."""

    def begin(self) -> None:
        """An answer is being waited for."""

    def piece(self, part: Part, text: str) -> None:
        """The next piece of the answer, as the model wrote it."""

    def done(self, turn: Turn, ended: Ended, seconds: float) -> None:
        """The answer is complete, or as complete as it gets."""

    def broken(self) -> None:
        """The answer will not be completed; an error follows."""

    def thought(self, text: str) -> None:
        """A thought of an earlier answer, on the user's wish."""

    def note(self, text: str) -> None:
        """Something that the user should read."""


class TerminalScreen:
    """Thoughts dimmed, or folded into one line; answers as they come.

    Args:
        console: rich's; None: standard output.
    """

    def __init__(self, console: Any = None) -> None:

        self.folded = False
        self._console = console or make_console()
        self._status: Any = None
        self._part: Part | None = None
        self._at_start = True
        self._words = 0
        self._last = ""

    def begin(self) -> None:
        """See `Screen`."""
        self._part, self._words, self._last, self._at_start = None, 0, "", True
        self._wait("…")

    def piece(self, part: Part, text: str) -> None:
        """See `Screen`."""
        if part == "thought" and self.folded:
            self._words += len((self._last + text).split()) - len(self._last.split())
            self._last = text[-1:]  # a piece may be half a word
            self._part = part
            self._wait(f"thinking … about {self._words} words")
            return
        self._end_wait()
        if part != self._part:
            self._between(part)
        if self._at_start:
            text = text.lstrip()
        if text:
            self._at_start = False
            self._write(text, "dim italic" if part == "thought" else "")

    def done(self, turn: Turn, ended: Ended, seconds: float) -> None:
        """See `Screen`."""
        self._end_wait()
        if self._part == "thought":
            self._between(None)
        if ended.how != "stop":
            self._write(f" {STOPPED if ended.how == 'stopped' else CUT}", "bold yellow")
        self._console.print()

    def broken(self) -> None:
        """See `Screen`."""
        self._end_wait()
        if self._part is not None:
            self._console.print()

    def thought(self, text: str) -> None:
        """See `Screen`."""
        self._write(text, "dim italic")
        self._console.print()

    def note(self, text: str) -> None:
        """See `Screen`."""
        self._write(f"{text}\n", "cyan")

    def _between(self, part: Part | None) -> None:
        """The thought ends."""
        if self._part == "thought" and self.folded:
            self._write(f"▸ thought, about {self._words} words (/think shows it)\n", "dim")
        elif self._part == "thought":
            self._write("\n\n" if part is not None else "\n", "")
        self._part, self._at_start = part, True

    def _write(self, text: str, style: str) -> None:
        from rich.text import Text

        # No wrapping by rich: a piece may be half a word, and the terminal wraps by itself. Made visible first, since
        # rich's texts drop bells and the like.
        self._console.print(Text(visible(text), style=style), end="", soft_wrap=True)
        self._console.file.flush()

    def _wait(self, text: str) -> None:
        if not self._console.is_terminal:
            return
        from rich.text import Text

        if self._status is None:
            self._status = self._console.status(Text(text, style="dim"), spinner="dots")
            self._status.start()
        else:
            self._status.update(Text(text, style="dim"))

    def _end_wait(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class PlainScreen:
    """For pipes: answers on standard output and nothing else there; notes on standard error."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.folded = False
        self._out = out or sys.stdout
        self._part: Part | None = None

    def begin(self) -> None:
        """See `Screen`."""
        self._part = None

    def piece(self, part: Part, text: str) -> None:
        """See `Screen`."""
        if part == "thought" and self.folded:
            return
        if part != self._part:
            self._tags(part)
        say(text, file=self._out, end="", flush=True)

    def done(self, turn: Turn, ended: Ended, seconds: float) -> None:
        """See `Screen`."""
        self._tags(None)
        self._out.write("\n")
        self._out.flush()
        if ended.how != "stop":
            self.note(STOPPED if ended.how == "stopped" else CUT)

    def broken(self) -> None:
        """See `Screen`."""
        if self._part is not None:
            self._out.write("\n")

    def thought(self, text: str) -> None:
        """See `Screen`."""
        say(text, file=self._out)

    def note(self, text: str) -> None:
        """See `Screen`."""
        say(text, file=sys.stderr, flush=True)

    def _tags(self, part: Part | None) -> None:
        if part == "thought":
            self._out.write("<think>")
        elif self._part == "thought":
            self._out.write("</think>\n")
        self._part = part


class JsonScreen:
    """One JSON object an answer: what the model wrote, unchanged, yet harmless to a terminal."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.folded = False
        self._out = out or sys.stdout

    def begin(self) -> None:
        """See `Screen`."""

    def piece(self, part: Part, text: str) -> None:
        """See `Screen`."""

    def done(self, turn: Turn, ended: Ended, seconds: float) -> None:
        """See `Screen`."""
        row = {
            "user": turn.user,
            "content": turn.answer,
            "thought": turn.thought,
            "finish_reason": ended.how,
            "tokens": ended.tokens,
            "seconds": round(seconds, 3),
        }
        say(json_text(row), file=self._out, flush=True)

    def broken(self) -> None:
        """See `Screen`."""

    def thought(self, text: str) -> None:
        """See `Screen`."""

    def note(self, text: str) -> None:
        """See `Screen`."""
        say(text, file=sys.stderr, flush=True)
