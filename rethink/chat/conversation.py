"""What was said: turns, what of them is sent to the model, and what is saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rethink.errors import UsageError
from rethink.model.text.thoughts import split_turn
from rethink.store.atomic import storage_errors, write_text

Messages = Sequence[dict[str, str]]
How = Literal["stop", "length", "stopped"]
"""How an answer ended: by itself, at the token limit, or by the user."""


@dataclass(slots=True)
class Turn:
    """A message of the user and what came back."""

    user: str
    raw: str | None = None
    """The model's turn with its thought; None: not answered yet."""
    ended: How = "stop"

    @property
    def thought(self) -> str | None:
        """What the model thought before it answered."""
        return None if self.raw is None else split_turn(self.raw)[0]

    @property
    def answer(self) -> str:
        """Without the thought."""
        return "" if self.raw is None else split_turn(self.raw)[1]


@dataclass(slots=True)
class Conversation:
    """The turns so far."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    left_out: int = 0
    """Oldest turns that are not sent any more, since the context is full."""
    draws: int = 0
    """Answers drawn so far; each has its own seed."""

    def messages(self) -> list[dict[str, str]]:
        """What is sent: the system message, then the turns that fit, earlier answers without their thoughts."""
        sent = [{"role": "system", "content": self.system}] if self.system is not None else []
        for turn in self.turns[self.left_out :]:
            sent.append({"role": "user", "content": turn.user})
            if turn.raw is not None:
                sent.append({"role": "assistant", "content": turn.answer})
        return sent

    def fit(self, count: Callable[[Messages], int], limit: int) -> int:
        """Leave out the oldest turns until `count(messages)` is at most `limit`; returns how many went.

        The newest turn always stays, even where it is too long alone.
        """
        before = self.left_out
        while self.left_out < len(self.turns) - 1 and count(self.messages()) > limit:
            self.left_out += 1
        return self.left_out - before

    def leave_out_one(self) -> bool:
        """Leave out the oldest turn that is still sent; False where only the newest is left."""
        if self.left_out >= len(self.turns) - 1:
            return False
        self.left_out += 1
        return True

    def undo(self) -> Turn | None:
        """Take back the newest turn; None where there is none."""
        turn = self.turns.pop() if self.turns else None
        self.left_out = min(self.left_out, max(len(self.turns) - 1, 0))
        return turn

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns.clear()
        self.left_out = 0

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write all turns: Markdown where the name ends in `.md`, else one JSON object with `messages`.

        Raises:
            UsageError: the file exists, or its folder does not.
            StorageFailure: the disk refuses.
        """
        if path.exists():
            raise UsageError(f"{path} exists already; give another name")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"there is no folder {path.absolute().parent}; make it, or give another name")
        with storage_errors(path):
            if path.suffix == ".md":
                write_text(path, self._markdown())
            else:
                value = {"messages": self._whole(), **about}
                write_text(path, json.dumps(value, ensure_ascii=False, indent=None) + "\n")

    def _whole(self) -> list[dict[str, str]]:
        """Every message with its thought, as supervised fine-tuning reads them."""
        whole = [{"role": "system", "content": self.system}] if self.system is not None else []
        for turn in self.turns:
            whole.append({"role": "user", "content": turn.user})
            if turn.raw is not None:
                whole.append({"role": "assistant", "content": turn.raw})
        return whole

    def _markdown(self) -> str:
        parts = [f"**System:** {self.system}\n"] if self.system is not None else []
        for turn in self.turns:
            parts.append(f"**You:** {turn.user}\n")
            if turn.thought:
                parts.append("\n".join(f"> {line}" for line in turn.thought.splitlines()) + "\n")
            if turn.raw is not None:
                parts.append(f"**Model:** {turn.answer}\n" + ("\n*(stopped)*\n" if turn.ended == "stopped" else ""))
        return "\n".join(parts)
