"""JSONL files of the user's, read line by line with errors that say where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rethink.errors import TaskError
from rethink.reading import parse_json


def read_jsonl(path: Path, what: str, advice: str) -> Iterator[tuple[str, object]]:
    """Each non-empty line as (its position, its value).

    Args:
        path: the file, in UTF-8.
        what: what the file is to the user, for the error: `the data file`.
        advice: what to do where it cannot be read, to end that error with.

    Raises:
        TaskError: the file cannot be read, or a line is not JSON (which line).
    """
    try:
        # Split at line feeds only: JSON strings may hold other characters that end lines elsewhere.
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TaskError(f"{what} `{path}` cannot be read ({error.strerror or error}); {advice}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"`{path}`, line {number}"
            yield where, parse_line(line, where)


def parse_line(line: bytes | str, where: str) -> object:
    """The value of a line. Raises `TaskError`, which says `where`."""
    try:
        return parse_json(line)
    except ValueError as error:
        raise TaskError(
            f"{where}, is not JSON ({error}); each line must be one JSON object: correct or remove it"
        ) from error
