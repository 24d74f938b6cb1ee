"""What makes two stages the same: the hash that their outputs are found by.

Hashed are the kind and its version, the resolved recipe without what has no part in the result, the hash of each stage
that is used in the place of its name, and the content of each file that is read in the place of its path. So a renamed
stage or a moved file is found again, and any change upstream changes everything below it, and nothing else. The commit
is recorded and not hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.pipeline.kinds import STAGE_KINDS
from rethink.recipe.stages import ResolvedStage, substitute

WITHOUT_PART = ("name", "description", "checkpoint", "trackers")
"""Top-level fields that change no output."""
ENDPOINTS = ("endpoint", "teacher")
WHERE = ("url", "key_env", "seconds", "attempts", "concurrency")
"""Keys of endpoints in `samples` that change no output either: the same model may answer elsewhere."""
_SUFFIXES = (".jsonl", ".json", ".gguf", ".parquet", ".py", ".txt", ".yaml", ".csv")
_PROBE_BYTES = 1 << 20
_WHOLE = 64 << 20
"""Files up to this size are hashed whole; larger ones (weights) by size, first and last MiB."""


def stage_hashes(stages: Sequence[ResolvedStage]) -> dict[str, str]:
    """The hash (SHA-256, hex) of each stage by name; `stages` in order, inputs first.

    Raises:
        RunFolderError: a file that a recipe names cannot be read.
    """
    hashes: dict[str, str] = {}
    for stage in stages:
        hashes[stage.name] = stage_hash(stage, hashes)
    return hashes


def stage_hash(stage: ResolvedStage, inputs: Mapping[str, str]) -> str:
    """The hash of a stage; `inputs`: those of the stages before it, by name."""
    recipe = stage.recipe.model_dump(mode="json")
    for name in WITHOUT_PART:
        recipe.pop(name, None)
    for name in ENDPOINTS if stage.kind == "samples" else ():
        recipe[name] = {key: value for key, value in recipe[name].items() if key not in WHERE}
    recipe = substitute(recipe, lambda used, output: f"${{{inputs[used]}.{output}}}")
    identity = {
        "kind": stage.kind,
        "version": STAGE_KINDS[stage.kind].version,
        "recipe": _with_content(recipe),
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def local_paths(value: Any) -> list[str]:
    """Texts in a recipe that name a file or folder that exists."""
    if isinstance(value, dict):
        return [path for item in value.values() for path in local_paths(item)]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in local_paths(item)]
    return [value] if isinstance(value, str) and _path_of(value) is not None else []


def _with_content(value: Any) -> Any:
    """The value with the content's hash in the place of each path."""
    if isinstance(value, dict):
        return {key: _with_content(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_content(item) for item in value]
    path = _path_of(value) if isinstance(value, str) else None
    if path is None:
        return value
    attribute = value.rpartition(":")[2] if value.rpartition(":")[0].endswith(".py") else ""
    return f"content:{_content_hash(path)}" + (f":{attribute}" if attribute else "")


def _path_of(text: str) -> Path | None:
    """The file or folder that a text names: it must look like a path (a `/` in it, or an ending of a data file)."""
    if "\n" in text or len(text) > 4096 or "\0" in text:
        return None
    file, _, attribute = text.rpartition(":")
    if file.endswith(".py") and attribute.isidentifier():  # `rewards.py:function`
        text = file
    if "/" not in text and not text.endswith(_SUFFIXES):
        return None
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):
        return None


def _content_hash(path: Path) -> str:
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(entry for entry in path.iterdir() if entry.is_file())
    try:
        for file in files:
            size = file.stat().st_size
            if path.is_dir():
                digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as stream:
                if size <= _WHOLE:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
                else:
                    digest.update(f"{size}".encode() + stream.read(_PROBE_BYTES))
                    stream.seek(size - _PROBE_BYTES)
                    digest.update(stream.read(_PROBE_BYTES))
    except OSError as error:
        raise RunFolderError(f"`{path}`, which a stage reads, cannot be read ({error.strerror}).") from error
    return digest.hexdigest()
