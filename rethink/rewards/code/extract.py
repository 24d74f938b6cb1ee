"""The program in a completion. Linear in the text."""

from __future__ import annotations

from rethink.model.chat import END_THINK

_FENCE = "```"
_LANGUAGES = ("", "python", "python3", "py")


def extract_program(text: str, prefill: str = "") -> str | None:
    """What a completion gives as its program; None where it gives none.

    The thought is left out: what follows the last `</think>` counts, and nothing does where a thought was begun and
    not ended. Within it, the last `<answer>…</answer>` where there is one; within that, the last block fenced by three
    backticks whose language is Python or not named, else the whole text as it is.

    Args:
        text: the completion.
        prefill: the beginning of the assistant's turn that was part of the prompt.
    """
    turn = prefill + text
    _, ended, spoken = turn.rpartition(END_THINK)
    if not ended and "<think>" in turn:
        return None
    if not ended:
        spoken = text
    start = spoken.rfind("<answer>")
    if start >= 0:
        inside = spoken[start + len("<answer>") :]
        spoken = inside.partition("</answer>")[0]
    block = _last_block(spoken)
    program = spoken if block is None else block
    return program if program.strip() else None


def _last_block(text: str) -> str | None:
    found: str | None = None
    language: str | None = None
    lines: list[str] = []
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if language is None:
            if mark.startswith(_FENCE):
                language, lines = mark[len(_FENCE) :].strip().lower(), []
        elif mark == _FENCE:
            if language in _LANGUAGES:
                found = "".join(lines)
            language = None
        else:
            lines.append(line)
    if language in _LANGUAGES and any(line.strip() for line in lines):  # cut off before the block was closed
        return "".join(lines)
    return found
