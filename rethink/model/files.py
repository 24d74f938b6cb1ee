"""Reading the small JSON files of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rethink.errors import ModelError
from rethink.reading import parse_json, read_bounded_text

_MOST_BYTES = 64 << 20
"""The largest of these files is the index of a model in many shards."""


def read_text(path: Path) -> str:
    """A text file of a model folder.

    Raises:
        FileNotFoundError: it is missing.
        ModelError: it is no file, unreadable, too large, or not UTF-8.
    """
    try:
        return read_bounded_text(path, _MOST_BYTES)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}); download the model again") from error


def read_json_object(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object; an empty one where it is missing and `missing_ok`.

    Raises:
        ModelError: it is missing, unreadable, too large or too deep, or holds something else.
    """
    try:
        value = parse_json(read_text(path))
    except FileNotFoundError as error:
        if missing_ok:
            return {}
        raise ModelError(
            f"{path.parent} has no {path.name}; give a folder that `save_pretrained` wrote, a GGUF file, or a hub id"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__} where an object belongs; download the model again")
    return value
