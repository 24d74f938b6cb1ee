"""Writing files and folders so that a reader, or a resumed run, sees the old content or the new one and nothing else.

A file is written beside its destination, forced to disk, and renamed over it. A folder is built under a hidden name,
forced to disk, and exchanged with what was there. Hidden names all hold `.tmp-`, so leftovers of a killed process can
be told from real content and swept away (`clean_leftovers`). Errors of the disk become `StorageFailure`, which says
what to do.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rethink.errors import StorageFailure

TEMPORARY = ".tmp-"
"""Part of the name of everything that is not yet, or no longer, content."""
PROMOTED = ".new-"
"""Part of the name of a complete folder that waits to take its place (only where the system cannot exchange)."""

_WRITABLE = "make the folder writable for this user, or choose another with `--out`"
_ADVICE = {
    errno.ENOSPC: ("no space is left on the device", "free some space, or move the run's folder to a larger disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or ask for a larger quota"),
    errno.EFBIG: ("the file is larger than the system or `ulimit -f` allows", "raise the limit or use another disk"),
    errno.EACCES: ("permission is denied", _WRITABLE),
    errno.EPERM: ("the operation is not permitted", _WRITABLE),
    errno.EROFS: ("the file system is read-only", "mount it writable, or choose another folder with `--out`"),
    errno.EIO: ("the device reports an input/output error", "check the disk, or move the run's folder to another one"),
}
# Writers in other languages (safetensors, torch) lose the errno; these are the words that they leave.
_FULL_DISK_WORDS = (
    "no space left on device",
    "os error 28",
    "file write failed",
    "iostream error",
    "inline_container.cc",
)


def storage_errno(error: BaseException) -> int | None:
    """The errno when `error` (or what caused it) says that the disk refused, else None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _ADVICE:
            return seen.errno
        if any(words in str(seen).lower() for words in _FULL_DISK_WORDS):
            return errno.ENOSPC
        seen = seen.__cause__
    return None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a `StorageFailure` about `path`; other errors pass through."""
    try:
        yield
    except StorageFailure:
        raise
    except Exception as error:
        number = storage_errno(error)
        if number is None:
            raise
        raise _failure(path, number) from error


def _failure(path: Path, number: int) -> StorageFailure:
    reason, advice = _ADVICE[number]
    with suppress(OSError):
        if number == errno.ENOSPC:
            usage = shutil.disk_usage(path if path.is_dir() else path.parent)
            reason += f" ({usage.free / 2**20:.0f} MiB free of {usage.total / 2**30:.1f} GiB)"
    return StorageFailure(
        f"`{path}` could not be written: {reason}. What had been saved before is untouched and valid. "
        f"To continue, {advice}; then run the same command with `--resume`."
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, its file takes the place of `path`, on disk.

    Raises `StorageFailure` when the disk refuses; `path` then still holds what it held.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`, atomically. Raises `StorageFailure`."""
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace the content of `path` by `text` in UTF-8, atomically. Raises `StorageFailure`."""
    write_bytes(path, text.encode("utf-8", "replace"))  # a lone surrogate, which JSON may carry, has no UTF-8


def keep_text(path: Path, text: str) -> None:
    """Write a text where the file does not hold it already, atomically. Raises `StorageFailure`."""
    if not path.is_file() or path.read_bytes() != text.encode("utf-8", "replace"):
        write_text(path, text)


def write_json(path: Path, value: Any) -> None:
    """Replace the content of `path` by `value` as indented JSON, atomically. Raises `StorageFailure`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: `os.write` may stop early."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to disk, where the file system knows how (some network ones refuse with EINVAL)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Force every file and folder below `root`, and `root` itself, to disk."""
    for folder, _, names in os.walk(root):
        for name in names:
            file = Path(folder, name)
            if not file.is_symlink():
                sync_file(file)
        sync_folder(Path(folder))


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill an empty folder, then replace `path` by that folder.

    `write` gets the temporary folder. A reader of `path` sees the old folder or the new one, whole. An exception of
    `write` leaves the old one; those of the disk become `StorageFailure`.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            write(temporary)
            sync_tree(temporary)
            _install(temporary, path)
        except BaseException as error:
            # The reason is looked at before the space is given back: afterwards the disk has room again.
            refused = storage_errno(error)
            failure = _failure(path, refused) if refused is not None and not isinstance(error, StorageFailure) else None
            shutil.rmtree(temporary, ignore_errors=True)
            if failure is not None:
                raise failure from error
            raise


def remove_folder(path: Path) -> None:
    """Remove a folder so that a kill in the middle never leaves half of it under its own name."""
    with storage_errors(path):
        doomed = path.with_name(f".{path.name}{TEMPORARY}{secrets.token_hex(4)}")
        os.rename(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def clean_leftovers(folder: Path) -> None:
    """Sweep what a killed process left in `folder` (not below it), and finish a replacement that was under way.

    Only the process that may write to the folder should call it: another's unfinished work looks the same.
    """
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") and PROMOTED in entry.name and entry.is_dir():
            final = entry.with_name(entry.name[1 : entry.name.index(PROMOTED)])
            if final.exists():
                remove_folder(final)
            os.rename(entry, final)
        elif entry.name.startswith(".") and TEMPORARY in entry.name:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _install(temporary: Path, path: Path) -> None:
    """Move a complete folder to `path`; swap where something is there."""
    if not path.exists():
        os.rename(temporary, path)
        sync_folder(path.parent)
        return
    if _exchange(temporary, path):
        sync_folder(path.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        return
    # Without an exchange there is a moment with nothing under the name. The complete folder gets a name that
    # `clean_leftovers` recognises first, so a kill in that moment loses nothing.
    promoted = path.with_name(f".{path.name}{PROMOTED}{secrets.token_hex(4)}")
    os.rename(temporary, promoted)
    sync_folder(path.parent)
    remove_folder(path)
    os.rename(promoted, path)
    sync_folder(path.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one system call (Linux `renameat2`); False where system or file system cannot."""
    exchange_flag, current_folder = 2, -100
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(current_folder, os.fsencode(first), current_folder, os.fsencode(second), exchange_flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))
