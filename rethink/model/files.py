"""Reading the small JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rethink.errors import ModelError


def read_json_object(path: Path, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON file that holds an object; an empty one where it is missing and `missing_ok`.

    Raises:
        ModelError: it is missing, unreadable, or holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if missing_ok:
            return {}
        raise ModelError(
            f"{path.parent} has no {path.name}; give a folder that `save_pretrained` wrote, a GGUF file, or a hub id"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); download the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds {type(value).__name__} where an object belongs; download the model again")
    return value
