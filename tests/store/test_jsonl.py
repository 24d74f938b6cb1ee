"""One reader for the user's JSONL files: where a line stands, what is wrong, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import TaskError
from rethink.store.jsonl import read_jsonl


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x\u2028y"}\r\n\n  \n[1]\n', "utf-8")
    found = list(read_jsonl(path, "the data file", "give another"))
    assert found == [(f"`{path}`, line 1", {"a": "x\u2028y"}), (f"`{path}`, line 4", [1])]


@pytest.mark.parametrize(
    "line", ["nonsense", "[" * 100_000, "[" * 500 + "]" * 500, '"\\', '{"a": ["\\ud83d"]}', '{"\\udc00": 1}']
)
def test_a_line_that_is_not_json(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{{}}\n{line}\n", "utf-8")
    with pytest.raises(TaskError, match=r"a\.jsonl`, line 2, is not JSON .*correct or remove it"):
        list(read_jsonl(path, "the data file", "give another"))


def test_whole_surrogate_pairs_are_characters(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00"}')
    assert [value for _, value in read_jsonl(path, "the data file", "give another")] == [{"a": "\U0001f600"}]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"the data file `.*b\.jsonl` cannot be read \(No such file.*\); give another"):
        list(read_jsonl(tmp_path / "b.jsonl", "the data file", "give another"))
