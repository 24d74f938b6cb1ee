"""`metrics.jsonl`: one JSON object a line, one line a step, steps rising. Appended and forced to disk step by step.

A kill in the middle of an append leaves a torn last line. Readers ignore it; the next append cuts it off first.
Numbers that JSON lacks are written as the strings "NaN", "Infinity" and "-Infinity", and read back as numbers. Each row
has the beginning of the hash of its other values under `checksum`; readers check it and leave it out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.store.atomic import storage_errors, sync_folder, write_all, write_bytes
from rethink.store.integrity import CHECKSUM, json_digest, take_checksum

_DIGITS = 16
"""Of a row's checksum."""
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsFile:
    """The metrics of a run. Many may read; one process, the holder of the run's lock, appends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last_step: int | None = None
        self._size = -1  # of the file after our last append; another size means: look again

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row and force it to disk. `row["step"]` must be greater than that of the last row.

        Raises `ValueError` for a step that is already there, `StorageFailure` when the disk refuses (the file then
        holds what it held).
        """
        step = int(row["step"])
        line = _line(row)
        with storage_errors(self.path):
            self._prepare()
            if self._last_step is not None and step <= self._last_step:
                raise ValueError(f"metrics already hold step {self._last_step}; a row of step {step} would be a repeat")
            self._append_bytes(line)
        self._last_step = step

    def _prepare(self) -> None:
        """Cut off a torn line and learn the last step, unless the file is just as we left it."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._size:
            return
        rows, valid = self._parse()
        if valid < size:
            os.truncate(self.path, valid)
        self._last_step = int(rows[-1]["step"]) if rows else None
        self._size = valid

    def _append_bytes(self, line: bytes) -> None:
        is_new = not self.path.exists()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, line)
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, self._size)
            raise
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.path.parent)
        self._size += len(line)

    def repair(self) -> None:
        """Cut off a torn last line. Only for the holder of the run's lock."""
        self._size = -1
        with storage_errors(self.path):
            self._prepare()

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, in order. Raises `RunFolderError` when one is damaged; a torn last line is ignored."""
        return self._parse()[0]

    def drop_after(self, step: int) -> None:
        """Remove the rows of all steps greater than `step`, atomically."""
        rows, _ = self._parse()
        kept = [row for row in rows if row["step"] <= step]
        if len(kept) < len(rows):
            write_bytes(self.path, b"".join(_line(row) for row in kept))
        self.repair()

    def _parse(self) -> tuple[list[dict[str, Any]], int]:
        """The rows, and the number of bytes that they take (what follows is a torn line)."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        rows: list[dict[str, Any]] = []
        valid = 0
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            row = _row(line)
            if row is None:
                if valid + len(line) < len(data):
                    raise RunFolderError(
                        f"line {number} of `{self.path}` is damaged: it is not a valid row of metrics. "
                        "Restore the file from a copy, or delete that line and resume: training does not need it, and "
                        "the report says which steps are lost."
                    )
                break
            if rows and row["step"] <= rows[-1]["step"]:
                raise RunFolderError(
                    f"line {number} of `{self.path}` is of step {row['step']}, after one of step {rows[-1]['step']}: "
                    "the file was changed. Restore it from a copy, or delete the line that is out of order."
                )
            rows.append(row)
            valid += len(line)
        return rows, valid


def _row(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; None where it is torn (no end of line), no object with a step, or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    if not take_checksum(row, _DIGITS):
        return None
    return {name: _NOT_FINITE.get(value, value) if isinstance(value, str) else value for name, value in row.items()}


def _line(row: Mapping[str, Any]) -> bytes:
    """A row with its checksum, as the file has it."""
    plain = json.loads(json.dumps({name: _plain(value) for name, value in row.items()}, allow_nan=False))
    return (json.dumps(plain | {CHECKSUM: json_digest(plain)[:_DIGITS]}) + "\n").encode()


def _plain(value: Any) -> Any:
    """A value as JSON takes it: NumPy and torch scalars become numbers, what is not finite becomes a string."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
