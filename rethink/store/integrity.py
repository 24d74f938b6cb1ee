"""How damage is noticed: SHA-256 of JSON documents, Parquet files and folders, kept within them.

A JSON document has the hash of its content under `checksum`. A Parquet file has that of all its other bytes between its
pages and its footer, where every reader of Parquet skips it. A folder that is written as a whole has the hash of each
file in `checksums.json`. What lacks a hash (written by an earlier version) is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.store.atomic import write_text

CHECKSUM = "checksum"
INDEX = "checksums.json"
_MARK = b"RETHINK-SHA-256:"
_SEAL_BYTES = len(_MARK) + 32
_TAIL_BYTES = 8  # of a Parquet file: length of its footer, "PAR1"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- JSON documents -------------------------------------------------------------------------------------------------


def json_digest(value: Any) -> str:
    """SHA-256 (hex) of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def take_checksum(value: dict[str, Any], digits: int = 64) -> bool:
    """Take the checksum out of an object; whether the rest has it, in so many digits. One without a checksum passes.

    A checksum whose own name was damaged is found by what it is.
    """
    name = CHECKSUM if CHECKSUM in value else next(reversed(value), None)
    if name is None:
        return True
    rest = {key: item for key, item in value.items() if key != name}
    same = bool(value[name] == json_digest(rest)[:digits])
    value.pop(CHECKSUM, None)
    return same if name == CHECKSUM else not same


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by the value as indented JSON with its checksum, atomically. Raises `StorageFailure`."""
    text = json.dumps(dict(value), indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()
    content = json.loads(text)  # as a reader will see it: keys are texts, tuples are lists
    sealed = content | {CHECKSUM: json_digest(content)}
    write_text(path, json.dumps(sealed, indent=2, ensure_ascii=False) + "\n")


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The object that `write_sealed` wrote, without its checksum; None where there is no file.

    Raises:
        RunFolderError: it cannot be read, is no JSON object, or is not what was written.
    """
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("it is no object")
        if not take_checksum(value):
            raise ValueError("its content does not have its checksum")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(
            f"`{path}` is damaged: it is not JSON as it was written ({error}). Rethink writes it whole or not at all, "
            f"so it was changed later: restore it from a copy (without the line `{CHECKSUM}`, where the change was "
            "meant)."
        ) from error
    return value


# --- Parquet files --------------------------------------------------------------------------------------------------


def sealed_parquet(data: bytes) -> bytes:
    """A Parquet file with the hash of its bytes before its footer."""
    cut = _footer_start(data)
    assert cut is not None
    return b"".join((data[:cut], _MARK, hashlib.sha256(data).digest(), data[cut:]))


def parquet_is_whole(data: bytes) -> bool:
    """Whether a file's bytes are those that `sealed_parquet` gave; True where it has no hash."""
    cut = _footer_start(data)
    if cut is None:
        return False
    start = cut - _SEAL_BYTES
    if start < 0 or data[start : start + len(_MARK)] != _MARK:
        return True
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(memoryview(data)[cut:])
    return digest.digest() == data[cut - 32 : cut]


def _footer_start(data: bytes) -> int | None:
    """Where the footer begins; None where the bytes do not end as Parquet does."""
    if len(data) < _TAIL_BYTES or data[-4:] != b"PAR1":
        return None
    start = len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    return start if start >= 0 else None


# --- folders --------------------------------------------------------------------------------------------------------


def write_index(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write `checksums.json` of the named files of a folder, or of all its files if none are named."""
    if names is None:
        names = (entry.name for entry in folder.iterdir() if entry.is_file() and entry.name != INDEX)
    write_sealed(folder / INDEX, {name: sha256_of(folder / name) for name in sorted(names)})


def read_index(folder: Path) -> dict[str, str]:
    """File name to SHA-256 (hex), as written; empty where the folder has no index. Raises `RunFolderError`."""
    return dict(read_sealed(folder / INDEX) or {})


def check_index(folder: Path) -> None:
    """Compare every file of a folder with its index.

    Raises:
        RunFolderError: names the first file that is missing or is not what was written.
    """
    for name in read_index(folder):
        check_hash(folder / name)


def check_hash(path: Path, found: str | None = None) -> None:
    """Compare a file with the index of its folder; one that the index does not name passes.

    Args:
        path: the file.
        found: its SHA-256, where it is known already.

    Raises:
        RunFolderError: it is missing or is not what was written.
    """
    written = read_index(path.parent).get(path.name)
    if written is None:
        return
    try:
        same = (found or sha256_of(path)) == written
    except OSError as error:
        raise RunFolderError(f"`{path}` is missing or cannot be read ({error.strerror}): {_ADVICE}") from error
    if not same:
        raise RunFolderError(f"`{path}` is damaged: its content does not match the recorded hash. {_ADVICE}")


_ADVICE = f"Restore it from a copy, or create it again. (If the change was intended, delete {INDEX} next to it.)"
