"""A control group for a sandbox, where this process may make one: the kernel then counts all memory, tables and buffers
included, and kills what goes beyond.

https://docs.kernel.org/admin-guide/cgroup-v2.html; version 1 has other names for the same files.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
SLACK = 32 << 20
"""Bytes above a job's limit: the kernel's own for threads, and what the sandbox's first process adds."""
_FILES = (("memory.max", "memory.events"), ("memory.limit_in_bytes", "memory.oom_control"))
"""The limit, and the count of kills, of versions 2 and 1."""

_counter = itertools.count()


class Group:
    """A group with a limit on memory.

    Args:
        folder: that was made for it.
        limit: name of the file with the limit.
        events: name of the file that counts kills.
    """

    def __init__(self, folder: Path, limit: str, events: str):
        self._folder, self._limit, self._events = folder, folder / limit, folder / events
        self._bytes = 0

    def hold(self, memory_bytes: int) -> None:
        """Set the limit for the next job."""
        if memory_bytes != self._bytes:
            with contextlib.suppress(OSError):  # what is left of the last job is above it: the watch remains
                self._limit.write_text(str(memory_bytes + SLACK))
                self._bytes = memory_bytes

    def kills(self) -> int:
        """How often the kernel has killed for want of memory."""
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in self._events.read_text().splitlines())
            return int(counts.get("oom_kill", 0))
        return 0

    def close(self) -> None:
        """Remove it, once its processes have ended."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def make_group(pids: Iterable[int]) -> Group | None:
    """A group for processes and the children that they will have; None where none can be made."""
    for parent in _parents(Path("/proc/self/cgroup")):
        folder = parent / f"rethink-{os.getpid()}-{next(_counter)}"
        try:
            _sweep(parent)
            folder.mkdir()
        except OSError:
            continue
        with contextlib.suppress(OSError):
            for limit, events in _FILES:
                if (folder / limit).exists():
                    for pid in pids:
                        (folder / "cgroup.procs").write_text(str(pid))
                    return Group(folder, limit, events)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return None


def _parents(own: Path) -> Iterator[Path]:
    """Groups below which one may be made: this process's own; of version 2 also the one around it, which has to be the
    user's (delegated), since a group with processes has none below it that limit memory.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = ROOT / "memory" / path.lstrip("/") if controllers else ROOT / path.lstrip("/")
        if "memory" in controllers.split(",") and folder.is_dir():
            yield folder
        elif not controllers and (folder / "cgroup.controllers").is_file():
            yield folder
            if folder != ROOT and folder.parent.stat().st_uid == os.geteuid() != 0:
                yield folder.parent


def _sweep(parent: Path) -> None:
    """Remove the groups of processes that were killed before they could."""
    for left in parent.glob("rethink-*-*"):
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            with contextlib.suppress(OSError):
                left.rmdir()
