"""The hash of what a run reads, a file or a folder: whole, and only once for large files that do not change.

The hash of a large file is kept in the user's cache with the file's path, size, times and inode, so that weights are
read once. If these are unchanged, so is the content. Damage by the disk is found when the file is
hashed for the first time, or by the index of its folder (`integrity`).
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from rethink.errors import RunFolderError, StorageFailure
from rethink.store.cache import cache_root
from rethink.store.integrity import INDEX, check_hash, read_index, read_sealed, sha256_of, write_sealed

LARGE = 16 << 20
"""Bytes from which on a file's hash is kept: smaller ones are read in a moment."""
_SETTLED = 2.0
"""Seconds since a file's last change from which on its times tell a further one: clocks of file systems are coarse."""


def content_hash(path: Path) -> str:
    """SHA-256 (hex) that tells the content of a file, or of the files in a folder (not below it), from others.

    A file whose hash was written down where it was made (`checksums.json` beside it) must have that hash.

    Raises:
        RunFolderError: a file cannot be read, or is not what was written.
    """
    digest = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(entry for entry in path.iterdir() if entry.is_file())
        for file in files:
            if path.is_dir():
                if file.name == INDEX:
                    continue
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
            found = file_hash(file)
            check_hash(file, found)
            digest.update(bytes.fromhex(found))
    except OSError as error:
        raise RunFolderError(f"`{path}` cannot be read ({error.strerror}): correct its name or permissions") from error
    return digest.hexdigest()


def check_contents(folder: Path) -> None:
    """Compare every file of a folder with its index; a large one is read once only.

    Raises:
        RunFolderError: names the first file that is missing or is not what was written.
    """
    for name in read_index(folder):
        path = folder / name
        check_hash(path, file_hash(path) if path.is_file() else None)


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; that of a large file may come from the cache. Raises `OSError`."""
    before = path.stat()
    if before.st_size < LARGE:
        return sha256_of(path)
    facts = [str(path.resolve()), before.st_size, before.st_mtime_ns, before.st_ctime_ns, before.st_ino]
    key = hashlib.sha256(str(facts[0]).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = cache_root() / "hashes" / f"{key}.json"
    with suppress(RunFolderError):
        known = read_sealed(kept)
        if known is not None and known.get("facts") == facts:
            return str(known["sha256"])
    found = sha256_of(path)
    if time.time() - max(before.st_mtime, before.st_ctime) > _SETTLED:
        with suppress(OSError, StorageFailure):  # it is only a cache
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(kept, {"facts": facts, "sha256": found})
    return found
