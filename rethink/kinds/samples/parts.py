"""Work in parts: each is written whole or not at all, so that a killed run repeats no more than the part it was in.

    FOLDER/part-000000.jsonl    first line: which items, and the hash of the rows; then a row a line

What comes next always reads the parts back from disk, so a resumed run sees what an uninterrupted one saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rethink.errors import RunFolderError
from rethink.store.atomic import clean_leftovers, storage_errors, write_text
from rethink.store.integrity import json_digest

Row = dict[str, Any]
Item = TypeVar("Item")


class Stopped(Exception):
    """Ctrl-C between two parts; what was done is on disk."""


def in_parts(
    folder: Path,
    items: Sequence[Item],
    size: int,
    key: Callable[[Item], str],
    work: Callable[[Sequence[Item]], Sequence[Row]],
    *,
    stop: Callable[[], bool],
    done: Callable[[int, Sequence[Row], bool], None] = lambda *_: None,
) -> list[Row]:
    """The rows of all items, `size` items a part; parts that are on disk are read instead of made.

    Args:
        folder: of the parts.
        items: in an order that a resumed run repeats.
        size: items of a part.
        key: names an item; the parts on disk must be of the same ones.
        work: makes the rows of a part.
        stop: asked before each part that has to be made.
        done: called with the part's index, its rows, and whether it was made now (before it is written).

    Raises:
        Stopped: `stop` says so.
        RunFolderError: a part on disk is damaged or of other items.
        StorageFailure: the disk refuses; the earlier parts are sound.
    """
    clean_leftovers(folder)
    rows: list[Row] = []
    for index, start in enumerate(range(0, len(items), size)):
        chunk = items[start : start + size]
        path, digest = folder / f"part-{index:06d}.jsonl", digest_of([key(item) for item in chunk])
        if path.is_file():
            found = _read(path, digest)
            done(index, found, False)
        else:
            if stop():
                raise Stopped
            made = list(work(chunk))
            done(index, made, True)
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            made = json.loads(json.dumps(made, ensure_ascii=False).encode("utf-8", "replace"))  # as it is read back
            write_lines(path, [{"items": digest, "checksum": json_digest(made)}, *made])
            found = _read(path, digest)
        rows += found
    return rows


def digest_of(keys: Sequence[str]) -> str:
    """Tells a sequence of names from others (hex)."""
    text = "\x1e".join(keys).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Replace a JSONL file, atomically; a lone surrogate becomes "?". Raises `StorageFailure`."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _read(path: Path, digest: str) -> list[Row]:
    try:
        lines = path.read_bytes().split(b"\n")
        header, *rows = [json.loads(line) for line in lines if line]
        if "items" not in header or header.get("checksum", json_digest(rows)) != json_digest(rows):
            raise ValueError("its rows do not have their checksum")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunFolderError(
            f"`{path}` is damaged ({error}). It is written whole or not at all, so it was changed later: delete it, "
            "and --resume makes it again."
        ) from error
    if header["items"] != digest:
        raise RunFolderError(
            f"`{path}` was made from other problems or samples than those of now, or is damaged: a file that the "
            "recipe names changed since the run began. Restore it, or start anew with another --out."
        )
    return rows
