"""Locks between processes. A killed process's lock is gone with it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rethink.errors import RunFolderError
from rethink.store.atomic import storage_errors

LOCK = ".rethink.lock"
"""Name of the file in a locked folder. It stays there and holds the id of the last process that wrote."""
_FLOCK = "hhqqi"
"""Type, whence, start, length and process of Linux' `struct flock` on 64 bits."""
_held: set[str] = set()  # locks of this process: POSIX locks do not exclude the process that has them


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the one process that writes to an existing folder.

    Raises:
        RunFolderError: another process has it, or this one already.
        StorageFailure: the disk refuses.
    """
    path = folder / LOCK
    name = str(path.resolve())
    if name in _held:
        raise RunFolderError(f"this process already writes to `{folder}`; wait until that run ends.")
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            # A POSIX lock and not `flock`: children forked by a killed run must not keep the folder locked.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise RunFolderError(
                f"another process{f' (id {holder})' if holder else ''} is writing to `{folder}`. Let it finish, "
                "stop it with Ctrl-C (what is done is kept), or use another `--out`."
            ) from None
        _held.add(name)
        with suppress(OSError):  # only information for the message above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _held.discard(name)
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process writes to a folder now. Nothing is locked or waited for."""
    path = folder / LOCK
    if str(path.resolve()) in _held:
        return True
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # nobody ever wrote, or not for us to see
        return False
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found: int = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
        return found != fcntl.F_UNLCK
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process, nor another thread of this one, is in a block of the same lock file."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
