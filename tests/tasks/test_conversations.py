"""Rows for fine-tuning: both forms, and what is wrong with a row is said with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import TaskError
from rethink.tasks.conversations import Conversation, read_conversations
from rethink.types import UNTRAINED

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


@pytest.mark.parametrize(
    "flag",
    [
        {"weight": 0}, {"weight": 0.0}, {"loss_mask": 0}, {"loss": False}, {"train": False}, {"trainable": False},
        {"training": 0}, {"train_on_turn": False}, {"step_loss_mask": 0}, {"loss_weight": 0}, {"masked": True},
    ],
)  # fmt: skip
def test_a_message_says_that_it_is_context(tmp_path: Path, flag: dict[str, Any]) -> None:
    (row,) = read(tmp_path, {"messages": [USER, {**ASSISTANT, **flag}, USER, ASSISTANT]})
    assert row.messages == (USER, {**ASSISTANT, UNTRAINED: f"`{next(iter(flag))}`"}, USER, ASSISTANT)
    with pytest.raises(TaskError, match=f"line 1: no assistant turn is to be trained on, by `{next(iter(flag))}`"):
        read(tmp_path, {"messages": [USER, {**ASSISTANT, **flag}]})


def test_flags_that_say_yes_nothing_or_are_not_the_assistants(tmp_path: Path) -> None:
    flagged = [
        {**USER, "weight": 0, "train": "no"},
        {**ASSISTANT, "weight": 1, "train": True, "loss": None, "masked": False, "name": "x"},
    ]
    row = {"messages": flagged, "weight": 1, "train": None, "loss": 0.7}
    assert read(tmp_path, row)[0].messages == (USER, ASSISTANT)


def test_what_the_assistant_says_in_a_prompt_is_context(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT, USER, ASSISTANT]})
    assert [UNTRAINED in message for message in row.messages] == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, ["message 2", "`weight` is '0.5'"]),
        ({"messages": [USER, {**ASSISTANT, "loss_mask": [0, 1]}]}, ["message 2", "`loss_mask`"]),
        ({"messages": [USER, {**ASSISTANT, "train": "false"}]}, ["message 2", "`train` is 'false'"]),
        ({"messages": [USER, {**ASSISTANT, "train_detail": []}]}, ["message 2", "`train_detail`", "unknown"]),
        ({"messages": [USER, ASSISTANT], "weight": 0}, ["has `weight: 0`", "remove the row"]),
        ({"prompt": "a", "completion": "b", "train": False}, ["has `train: false`"]),
        ({"prompt": "a", "completion": "b", "masked": True}, ["has `masked: true`"]),
        ({"prompt": "a", "completion": "b", "loss_mask": [1, 0]}, ["`loss_mask` is '[1, 0]'"]),
    ],
)
def test_a_flag_that_cannot_be_honoured_is_refused(tmp_path: Path, row: Any, words: list[str]) -> None:
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
