"""A turn's thought and answer: the tags that mark them, and the functions that tell them apart.

Every function is linear in the length of the text. They differ in what counts as the thought: rewards and graders read
a whole turn that may be hostile, a stream must decide piece by piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"


@dataclass(frozen=True, slots=True)
class ParsedCompletion:
    """The parts of a completion."""

    thought: str | None
    """What `<think>` encloses, stripped; None without a whole pair of tags."""
    answer: str | None
    """What the last `<answer>` after the thought encloses, stripped; None without a whole pair of tags."""
    well_formed: bool
    """Whether the turn is one thought and then one answer, each tag once, with nothing but white space around them."""


def parse_completion(text: str, prefill: str = "") -> ParsedCompletion:
    """Find thought and answer by their tags.

    Args:
        text: the completion.
        prefill: the beginning of the assistant's turn that was part of the prompt.
    """
    turn = prefill + text
    before, opened, rest = turn.partition(THINK)
    if opened:
        thought, closed, after = rest.partition(END_THINK)
        found = thought.strip() if closed else None
    else:
        # Without a thought the whole turn may hold the answer.
        closed, after, found = "", turn, None
    answer = None if opened and not closed else _last_answer(after)
    once = all(turn.count(tag) == 1 for tag in (THINK, END_THINK, ANSWER, END_ANSWER))
    framed = after.strip().startswith(ANSWER) and after.strip().endswith(END_ANSWER)
    well_formed = bool(once and closed and framed and not before.strip())
    return ParsedCompletion(found, answer, well_formed)


def _last_answer(text: str) -> str | None:
    last = text.rfind(END_ANSWER)
    start = text.rfind(ANSWER, 0, last) if last >= 0 else -1
    # The first end after it: a second one is stray.
    return text[start + len(ANSWER) : text.find(END_ANSWER, start)].strip() if start >= 0 else None


def after_thought(turn: str, *, unended: bool = False) -> str | None:
    """The text after the last `</think>`; the whole turn if it has no thought.

    Args:
        turn: the prompt's prefill and the completion.
        unended: for a thought that does not end, return the whole turn instead of None.
    """
    _, ended, after = turn.rpartition(END_THINK)
    return None if not ended and THINK in turn and not unended else after


def thought_of(turn: str) -> str:
    """The chain of thought of a turn: from the first `<think>` to its end, or to the end of a turn that was cut.

    Without the tags, everything before the first `<answer>`.
    """
    before, opened, rest = turn.partition(THINK)
    return rest.partition(END_THINK)[0] if opened else before.partition(END_THINK)[0].partition(ANSWER)[0]


def split_turn(turn: str) -> tuple[str | None, str]:
    """(thought, answer) of a whole turn, stripped; the thought is None if there is none.

    The thought stands at the beginning of the turn; see `ThoughtSplitter`. If the turn has only a `</think>`, its
    `<think>` was part of the prompt, and the text before `</think>` is the thought.
    """
    begun = turn.lstrip().startswith(THINK)
    thought, answer = ThoughtSplitter(END_THINK in turn and not begun).push(turn, last=True)
    return thought if begun or END_THINK in turn else None, answer.strip()


def with_thought(thought: str | None, content: str, cut: bool) -> str:
    """The turn of a thought and its content; the thought stays open if the turn was cut within it."""
    if not thought:
        return content
    return f"{THINK}\n{thought}\n" + (f"{END_THINK}\n\n{content}" if content or not cut else "")


def held_back(text: str, marks: Sequence[str]) -> int:
    """Length of the longest end of the text with which one of the marks could begin (never a whole mark)."""
    longest = min(len(text), max((len(mark) for mark in marks), default=0))
    for size in range(longest, 0, -1):
        end = text[len(text) - size :]
        if any(len(mark) > size and mark.startswith(end) for mark in marks):
            return size
    return 0


class ThoughtSplitter:
    """Divides a turn into its thought, between `<think>` and `</think>`, and its content, piece by piece.

    A thought is what the turn begins with; white space around it belongs to neither. A turn without one is all content,
    unchanged. A thought that never ends leaves no content.

    Args:
        opened: whether the prompt already ended with `<think>`.
    """

    def __init__(self, opened: bool = False):
        self._state = "thought" if opened else "begin"
        self._held = ""
        self._begun = False
        """Whether anything of the present part was given."""

    def push(self, text: str, *, last: bool = False) -> tuple[str, str]:
        """Further thought and content; `last` gives out what was held back."""
        self._held += text
        thought = content = ""
        if self._state == "begin":
            self._begin(last)
        if self._state == "thought":
            thought = self._think(last)
        if self._state == "between":
            self._held = self._held.lstrip()
            if self._held:
                self._state = "content"
        if self._state == "content":
            content, self._held = self._held, ""
        return thought, content

    def _begin(self, last: bool) -> None:
        seen = self._held.lstrip()
        if seen.startswith(THINK):
            self._state, self._held = "thought", seen[len(THINK) :]
        elif last or not THINK.startswith(seen):
            self._state = "content"

    def _think(self, last: bool) -> str:
        body, closed, after = self._held.partition(END_THINK)
        if not self._begun:
            body = body.lstrip()
        if closed:
            self._state, self._held = "between", after
            return body.rstrip()
        certain = body if last else body[: len(body) - held_back(body, (END_THINK,))]
        new = certain.rstrip()
        self._begun = self._begun or bool(new)
        self._held = body[len(new) :]
        return new
