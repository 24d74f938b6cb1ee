"""Bounds on what strangers' files may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rethink.reading import DEEPEST, check_expanded, parse_json, parts_of_value, read_bounded_text


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_depth_is_bounded_exactly() -> None:
    assert parse_json("[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)) == nested(DEEPEST - 1)
    with pytest.raises(ValueError, match="levels deep"):
        parse_json("[" * DEEPEST + "1" + "]" * DEEPEST)


def test_files_are_read_up_to_their_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("é" * 4)
    assert read_bounded_text(path, 8) == "é" * 4
    with pytest.raises(ValueError, match="8 bytes, and 7 are allowed"):
        read_bounded_text(path, 7)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_bounded_text(tmp_path / "pipe", 8)


def test_shared_parts_count_as_often_as_they_are_used() -> None:
    inner = ["abc"]
    assert check_expanded([inner, inner], parts_of_value, 100, {}) == (11, 2)
    with pytest.raises(ValueError, match="more than 10 letters"):
        check_expanded([inner, inner], parts_of_value, 10, {})
    inner.append(inner)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cyclic"):
        check_expanded(inner, parts_of_value, 100, {})
