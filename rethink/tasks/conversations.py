"""Conversations from JSONL files, for supervised fine-tuning.

A row is `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`, or
`{"prompt": "…", "completion": "…"}`, where the prompt becomes the user's turn; both of the latter may also be lists of
messages. A row whose messages end before the assistant's turn may bring it as `completion`, as the samples that Rethink
writes do. Keys that say what is not to be trained on are honoured or refused (`loss_flags.py`); others are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rethink.errors import TaskError
from rethink.store.jsonl import parse_line
from rethink.tasks.loss_flags import left_out_by, refuse_left_out_row
from rethink.tasks.split import split_key
from rethink.types import UNTRAINED

RowFormat = Literal["auto", "messages", "prompt-completion"]
ROLES = ("system", "user", "assistant", "tool")
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Where other programs put the thought; templates differ in what becomes of it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row that can be trained on."""

    messages: tuple[Mapping[str, str], ...]
    """Each with `role` and `content`; the last one is the assistant's. Some of the assistant's are `UNTRAINED`."""
    line: int
    """In its file, from 1."""

    @property
    def prompt_key(self) -> int:
        """Hash of what the user says before the first assistant turn: equal for the same question and its twins."""
        said = []
        for message in self.messages:
            if message["role"] == "assistant":
                break
            if message["role"] != "system":
                said.append(message["content"])
        return split_key("\n".join(said))


@dataclass(frozen=True, slots=True)
class ConversationFile:
    """All rows of a file."""

    path: str
    rows: tuple[Conversation, ...]
    sha256: str
    """Of the file's bytes (hex)."""


def read_conversations(path: str, format: RowFormat = "auto") -> ConversationFile:
    """Read a JSONL file.

    Args:
        path: of the file, relative to the folder that the command runs in.
        format: what a row is; `auto` looks at each.

    Raises:
        TaskError: no such file, a line that is not JSON or no conversation (file and line), or no rows at all.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TaskError(
            f"the data file `{path}` cannot be read ({error.strerror or error}); paths are relative to the folder that "
            "the command runs in: correct data.N.path"
        ) from error
    rows = []
    # Split at line feeds only: JSON strings may hold other characters that end lines elsewhere.
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"`{path}`, line {number}"
        rows.append(Conversation(_messages(parse_line(line, where), format, where), number))
    if not rows:
        raise TaskError(f"`{path}` holds no rows; give a JSONL file with at least one conversation")
    return ConversationFile(path, tuple(rows), hashlib.sha256(content).hexdigest())


def _messages(value: Any, format: RowFormat, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(value, dict):
        raise TaskError(
            f"{where} is {type(value).__name__}, not an object with `messages`, or `prompt` and `completion`"
        )
    refuse_left_out_row(value, where)
    if format == "messages" or (format == "auto" and "messages" in value):
        _require(value, ("messages",), where)
        found = _list(value["messages"], where)
        if found and found[-1]["role"] != "assistant" and isinstance(value.get("completion"), str):
            found.append({"role": "assistant", "content": value["completion"]})
    else:
        _require(value, ("prompt", "completion"), where)
        given = [_context(message) for message in _side(value["prompt"], "user", where)]
        found = [*given, *_side(value["completion"], "assistant", where)]
    return _checked(found, where)


def _require(value: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in value:
            have = ", ".join(map(str, list(value)[:20])) or "no keys"
            raise TaskError(
                f'{where} has no key `{key}` (it has {have}); a row is {{"messages": [{{"role": …, "content": …}}, '
                '…]} or {"prompt": …, "completion": …}'
            )


def _side(value: Any, role: str, where: str) -> list[Mapping[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _list(value, where)


def _list(value: Any, where: str) -> list[Mapping[str, str]]:
    if not isinstance(value, list):
        raise TaskError(f'{where}: messages are a list of {{"role": …, "content": …}}, not {type(value).__name__}')
    return [_message(entry, f"{where}, message {number}") for number, entry in enumerate(value, 1)]


def _message(value: Any, where: str) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise TaskError(f"{where}, is {type(value).__name__}, not an object with `role` and `content`")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise TaskError(f"{where}: the role is {role!r}; allowed are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise TaskError(f"{where}: the content is {type(content).__name__}, and only text can be trained on")
    for key in _THOUGHT_KEYS:
        if value.get(key):
            raise TaskError(
                f"{where}: the thought is in `{key}`, which templates treat differently; write it into the "
                "content as <think>…</think>"
            )
    if value.get("tool_calls"):
        raise TaskError(
            f"{where} has `tool_calls`, which are not supported; write the call into the content, or drop it"
        )
    flag = left_out_by(value, where) if role == "assistant" else None
    return {"role": role, "content": content} | ({UNTRAINED: f"`{flag}`"} if flag is not None else {})


def _context(message: Mapping[str, str]) -> Mapping[str, str]:
    """A message of a prompt: what the assistant said there is given, not to be learnt."""
    return {**message, UNTRAINED: "`prompt`"} if message["role"] == "assistant" else message


def _checked(messages: list[Mapping[str, str]], where: str) -> tuple[Mapping[str, str], ...]:
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise TaskError(
            f"{where} has no assistant turn ({', '.join(roles) or 'no messages'}): there is nothing to learn"
        )
    if roles[-1] != "assistant":
        raise TaskError(f"{where} ends with a turn of the role `{roles[-1]}`; the last turn must be the assistant's")
    if roles[0] == "assistant":
        raise TaskError(f"{where} begins with the assistant's turn; a turn that it answers must come first")
    if any(message["role"] == "assistant" and not message["content"].strip() for message in messages):
        raise TaskError(f"{where}: an assistant turn is empty; remove the row, or the turn")
    if all(UNTRAINED in message for message in messages if message["role"] == "assistant"):
        reasons = ", ".join(sorted({message[UNTRAINED] for message in messages if UNTRAINED in message}))
        raise TaskError(
            f"{where}: no assistant turn is to be trained on, by {reasons}: remove the row, or the key if it is wrong"
        )
    return tuple(messages)
