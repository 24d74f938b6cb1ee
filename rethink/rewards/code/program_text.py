"""The program in a completion. Linear in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rethink.model.text.thoughts import ANSWER, END_ANSWER, END_THINK, after_thought

_LANGUAGE = re.compile(r"[\s{.]*(?:python|py)[\d.]*(?![\w-])", re.IGNORECASE | re.ASCII)
"""What begins after a fence: `python`, `Python 3`, `py`, `{python}`, `{.python .numberLines}`, `python:a.py`."""
_OPENING = re.compile(r"([ \t]*)(`{3,}|~{3,})([^\n`]*)$")
_WITHIN = re.compile(r"(`{3,}|~{3,})([^\n`~]*)$")
_ONE_LINE = re.compile(r"[^`]*`{3}(?:python|py)\d?[ \t]+([^`\n]+)`{3}[^`]*$", re.IGNORECASE | re.ASCII)
_CODE = re.compile(r"^(?:import \w|from [\w.]+ import|(?:async )?def \w|class \w|@\w)", re.MULTILINE)
"""A line that is Python and no English."""


def extract_program(text: str, prefill: str = "") -> str | None:
    """What a completion gives as its program; None where it gives none.

    The thought is left out: what follows the last `</think>` counts, and nothing does where a thought was begun and
    not ended. Within it, the last `<answer>…</answer>` where there is one; within that, the last fenced block whose
    language is Python, else the last one that names no language, else the whole text as it is.

    Args:
        text: the completion.
        prefill: the beginning of the assistant's turn that was part of the prompt.
    """
    turn = prefill + text
    spoken = after_thought(turn)
    if spoken is None:
        return None
    if END_THINK not in turn:
        spoken = text
    start = spoken.rfind(ANSWER)
    if start >= 0:
        spoken = spoken[start + len(ANSWER) :].partition(END_ANSWER)[0]
    block = _chosen_block(spoken)
    program = spoken if block is None else block
    return program if program.strip() else None


@dataclass(slots=True)
class _Block:
    """A fenced block (https://spec.commonmark.org/0.31.2/#fenced-code-blocks)."""

    fence: str
    indent: int
    """Columns before the fence, which its lines lose too."""
    python: bool
    plain: bool
    """Whether it names no language."""
    start: int
    """Where its opening line starts in the text."""
    lines: list[str] = field(default_factory=list)
    closed: bool = False

    def take(self, line: str) -> None:
        """Add a line of content, or close the block."""
        bare = line.rstrip()
        content = bare.lstrip()
        if content.startswith(self.fence) and not content.strip(self.fence[0]):
            # Four columns further in, it is text of the program, say of a docstring.
            self.closed = len(bare) - len(content) - self.indent < 4
            if self.closed:
                return
        elif self.fence[0] == "`" and bare.endswith(self.fence) and bare.count(self.fence) == 1:
            line, self.closed = bare[: -len(self.fence)], True
        self.lines.append(_less_indented(line, self.indent))

    @property
    def text(self) -> str:
        """Its content."""
        return "".join(self.lines)


def _chosen_block(text: str) -> str | None:
    blocks = _blocks(text)
    if len(blocks) == 1 and _closes_the_prompt(text, blocks[0]):
        return text[: blocks[0].start]
    for named in (True, False):
        # One that was cut off before it was closed counts where it holds something.
        found = [b for b in blocks if (b.python if named else b.plain) and (b.closed or b.text.strip())]
        if found:
            return found[-1].text
    return None


def _closes_the_prompt(text: str, block: _Block) -> bool:
    """Whether a lone fence without a language closes one that the prompt has opened: the program is before it."""
    before = text[: block.start]
    if not block.plain or block.closed or not before.strip():
        return False
    return not block.text.strip() or (_CODE.search(before) is not None and _CODE.search(block.text) is None)


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    block: _Block | None = None
    place = 0
    for line in text.splitlines(keepends=True):
        if block is None:
            block = _opened(line, place)
            if block is not None:
                blocks.append(block)
        else:
            block.take(line)
        if block is not None and block.closed:
            block = None
        place += len(line)
    return blocks


def _opened(line: str, place: int) -> _Block | None:
    bare = line.rstrip()
    found = _OPENING.match(bare)
    if found is not None:
        indent, fence, info = len(found[1].expandtabs(4)), found[2], found[3]
        return _Block(fence, indent, _LANGUAGE.match(info) is not None, not info.strip(), place)
    if "```" not in bare and "~~~" not in bare:
        return None
    one = _ONE_LINE.match(bare)
    if one is not None:
        return _Block("```", 0, True, False, place, [one[1]], closed=True)
    within = _WITHIN.search(bare)  # after words of a sentence
    if within is not None and _LANGUAGE.match(within[2]):
        return _Block(within[1], 0, True, False, place)
    return None


def _less_indented(line: str, columns: int) -> str:
    here = 0
    while here < columns and here < len(line) and line[here] == " ":
        here += 1
    return line[here:]
