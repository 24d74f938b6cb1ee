"""Rows for fine-tuning: both forms, and what is wrong with a row is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import TaskError
from rethink.tasks.conversations import Conversation, read_conversations

USER, ASSISTANT = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "A."}


def read(tmp_path: Path, *rows: Any, format: Any = "auto") -> tuple[Conversation, ...]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_conversations(str(path), format).rows


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT], "id": "x"},
        {"messages": [{**USER, "name": "Ann"}, ASSISTANT], "completion": "not looked at"},
        {"messages": [USER], "completion": "A."},
        {"prompt": "a?", "completion": "A."},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "A."},
    ],
)
def test_all_forms_are_the_same_conversation(tmp_path: Path, row: Any) -> None:
    (found,) = read(tmp_path, row)
    assert found.messages == (USER, ASSISTANT)


def test_lines_are_counted_with_the_empty_ones(tmp_path: Path) -> None:
    rows = read(tmp_path, {"prompt": "a\u2028?", "completion": "A."}, "", {"prompt": "b", "completion": "B"}, "")
    assert [row.line for row in rows] == [1, 3]


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text('{"prompt": "a", "completion": "b"}\n')
    second.write_text('{"prompt": "a",  "completion": "b"}\n')
    assert read_conversations(str(first)).sha256 != read_conversations(str(second)).sha256
    assert len(read_conversations(str(first)).sha256) == 64


def test_the_key_of_a_prompt(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        {"prompt": "What is 1?", "completion": "A."},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "what  is 1?"}, ASSISTANT]},
        {"messages": [{"role": "user", "content": "What is 1?"}, ASSISTANT, USER, ASSISTANT]},
        {"prompt": "What is 2?", "completion": "A."},
    )
    keys = [row.prompt_key for row in rows]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", ["line 2, is not JSON"]),
        ("[1]", ["line 2 is list"]),
        ({"question": "a", "answer": "b"}, ["line 2 has no key `prompt`", "question, answer"]),
        ({"prompt": "a"}, ["no key `completion`"]),
        ({"prompt": 3, "completion": "b"}, ["not int"]),
        ({"messages": "a"}, ["not str"]),
        ({"messages": []}, ["no assistant turn", "no messages"]),
        ({"messages": [USER]}, ["no assistant turn (user)"]),
        ({"messages": [USER, ASSISTANT, USER]}, ["ends with a turn of the role `user`"]),
        ({"messages": [ASSISTANT]}, ["begins with the assistant's turn"]),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, ["empty"]),
        ({"messages": [USER, {"role": "bot", "content": "b"}]}, ["message 2", "'bot'", "user, assistant"]),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ASSISTANT]}, ["message 1", "only text"]),
        ({"messages": [USER, {**ASSISTANT, "reasoning_content": "x"}]}, ["`reasoning_content`", "<think>"]),
        ({"messages": [USER, {**ASSISTANT, "tool_calls": [{}]}]}, ["tool_calls"]),
    ],
)
def test_a_bad_row_names_file_and_line(tmp_path: Path, row: Any, words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        read(tmp_path, {"prompt": "a", "completion": "b"}, row)
    for word in ["rows.jsonl", "line 2", *words]:
        assert word in str(caught.value)


def test_the_format_may_be_said(tmp_path: Path) -> None:
    both = {"messages": [USER, ASSISTANT], "prompt": "b?", "completion": "B."}
    assert read(tmp_path, both, format="prompt-completion")[0].messages[0]["content"] == "b?"
    with pytest.raises(TaskError, match="no key `messages`"):
        read(tmp_path, {"prompt": "b?", "completion": "B."}, format="messages")


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"`none\.jsonl` cannot be read.*data\.N\.path"):
        read_conversations("none.jsonl")
    with pytest.raises(TaskError, match="holds no rows"):
        read(tmp_path, "", "  ")
