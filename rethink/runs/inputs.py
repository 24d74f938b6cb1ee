"""What a run reads beside its recipe: data files, models, the user's code. Their hashes are part of what the run is.

    recipe ─► fields that name a file, a folder or a function ─► SHA-256 of each ─► `run.json` ─► compared on resume

A model's folder counts with all files in it, a run's folder with its `model/` (its `rollouts/` where data are read),
and a function with the file that defines it and those of the user's own that it imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.recipe.base import AnyRecipe
from rethink.recipe.identity import fixed_values
from rethink.store.contents import content_hash
from rethink.store.run_folder import RunFolder
from rethink.tasks.plugins import source_files

SHOWN = 4
_SUFFIXES = (".jsonl", ".json", ".gguf", ".parquet", ".py", ".txt", ".yaml", ".csv")
_PATH_FIELDS = ("path", "model", "held_out", "source", "prompts")
"""Fields that hold a path where one of that name exists; other texts must look like one."""
_FILE = " → "
"""In a key: between a field that names a function and a file of its code."""


def inputs_of(recipe: AnyRecipe) -> dict[str, str]:
    """The hash of everything that a recipe names, by its field (`reward.parts.1.function → rewards.py` for code).

    Raises:
        RunFolderError: a file is there and cannot be read, or is not what was written.
    """
    values = fixed_values(recipe)
    found: dict[str, str] = {}
    for field, value in values.items():
        if not isinstance(value, str):
            continue
        if names_function(field, values):
            found |= {f"{field}{_FILE}{name}": digest for name, digest in function_hashes(value).items()}
        elif (path := path_of(value, certain=names_path(field, values))) is not None:
            found[field] = path_hash(path, field)
    if "reasoning-gym" in values.values():
        found["the package reasoning_gym"] = metadata.version("reasoning_gym")
    return found


def model_hash(path: str, folder: Path, field: str = "model.path") -> dict[str, str]:
    """The hash of a model that a field does not name by its place: the embedded one, or one of the hub.

    Args:
        path: as the recipe has it.
        folder: the Hugging Face folder that it means.
        field: of the recipe.
    """
    return {} if path_of(path, certain=True) is not None else {field: content_hash(folder)}


def check_inputs(folder: RunFolder, recipe: AnyRecipe, found: Mapping[str, str]) -> None:
    """Refuse to go on with other data, code or models than a run began with.

    Raises:
        RunFolderError: names what changed.
    """
    old = folder.inputs
    if not old:  # begun by an earlier version
        return
    values = fixed_values(recipe)
    changed = [
        _said(key, values) + ("" if key in found else " (which is not found any more)")
        for key in sorted({*old, *found})
        if old.get(key) != found.get(key)
    ]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise RunFolderError(
            f"{', '.join(changed[:SHOWN])}{more} changed since the run in `{folder.path}` began, so it cannot go on "
            "exactly. Restore what changed to go on with --resume, or start anew with another --out."
        )


def path_hash(path: Path, field: str) -> str:
    """The hash of a file or folder that a field names."""
    if path.is_dir() and RunFolder.exists(path):
        path = path / ("rollouts" if field.startswith("data") else "model")
    return content_hash(path) if path.exists() else "missing"


def path_of(text: str, *, certain: bool = False) -> Path | None:
    """The file or folder that a text names; unless `certain`, it must look like a path (`/`, or a data file's end)."""
    if not text or "\n" in text or len(text) > 4096 or "\0" in text:
        return None
    if not certain and "/" not in text and not text.endswith(_SUFFIXES):
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):
        return None


def function_hashes(text: str) -> dict[str, str]:
    """The hash of each file of a function's code, by a short name; empty where there is no such function."""
    found: dict[str, str] = {}
    for path in source_files(text):
        name = path.name if path.name not in found else f"{path.parent.name}/{path.name}"
        found[name] = content_hash(path)
    return found


def names_path(field: str, values: Mapping[str, Any]) -> bool:
    """Whether a field surely names a path, where there is one of that name. `values`: all leaves of the recipe."""
    section, _, last = field.rpartition(".")
    return last in _PATH_FIELDS or (last == "name" and values.get(f"{section}.kind") == "jsonl")


def names_function(field: str, values: Mapping[str, Any]) -> bool:
    """Whether a field names a function of the user's."""
    section, _, last = field.rpartition(".")
    return last == "function" or (last == "name" and values.get(f"{section}.kind") == "python")


def _said(key: str, values: Mapping[str, Any]) -> str:
    field, arrow, file = key.partition(_FILE)
    if arrow:
        return f"`{file}` (code of `{field}`: {values.get(field)})"
    return f"`{values[field]}`" if isinstance(values.get(field), str) else key
