"""A turn's thought told from its answer, while it is being written."""

from __future__ import annotations

from typing import Literal

from rethink.model.chat import END_THINK, THINK

Part = Literal["thought", "answer"]


class ThoughtSplitter:
    """Cuts a turn that comes in pieces into its thought and its answer.

    A turn that begins with `<think>` (white space aside) thinks until `</think>`; the tags themselves are in neither
    part. Later tags are text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state: Literal["beginning", "thought", "after", "answer"] = "beginning"

    def feed(self, text: str) -> list[tuple[Part, str]]:
        """Take the next piece; what cannot be told yet is held back."""
        self._held += text
        return [piece for piece in self._cut() if piece[1]]

    def end(self) -> list[tuple[Part, str]]:
        """No more comes: what was held back."""
        part: Part = "thought" if self._state == "thought" else "answer"
        rest, self._held = self._held, ""
        if self._state == "beginning" and not rest.strip():
            rest = ""
        return [(part, rest)] if rest else []

    def _cut(self) -> list[tuple[Part, str]]:
        pieces: list[tuple[Part, str]] = []
        if self._state == "beginning":
            begun = self._held.lstrip()
            if begun.startswith(THINK):
                self._held, self._state = begun[len(THINK) :], "thought"
            elif not THINK.startswith(begun):
                self._state = "answer"
        if self._state == "thought":
            thought, closed, after = self._held.partition(END_THINK)
            kept = 0 if closed else _begun(self._held, END_THINK)
            pieces.append(("thought", thought[: len(thought) - kept]))
            self._held = after if closed else self._held[len(self._held) - kept :]
            self._state = "after" if closed else "thought"
        if self._state == "after":  # blank lines between the two belong to neither
            self._held = self._held.lstrip()
            self._state = "answer" if self._held else "after"
        if self._state == "answer":
            pieces.append(("answer", self._held))
            self._held = ""
        return pieces


def _begun(text: str, tag: str) -> int:
    """How many of the last characters may be the beginning of the tag."""
    for size in range(min(len(tag) - 1, len(text)), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


def split_turn(text: str) -> tuple[str | None, str]:
    """(thought, answer) of a whole turn, stripped; the thought is None where there is none.

    A turn whose `<think>` was part of a prompt that is not known here has a `</think>` alone: what is before it is
    thought.
    """
    if END_THINK in text and not text.lstrip().startswith(THINK):
        thought, _, answer = text.partition(END_THINK)
        return thought.strip(), answer.strip()
    splitter = ThoughtSplitter()
    pieces = [*splitter.feed(text), *splitter.end()]
    thoughts = [piece for part, piece in pieces if part == "thought"]
    opened = text.lstrip().startswith(THINK)
    answer = "".join(piece for part, piece in pieces if part == "answer")
    return "".join(thoughts).strip() if opened else None, answer.strip()
