"""What a job's processes hold of memory, page tables included, which no limit of a process counts.

A limit on address space bounds what is mapped. But an isolated page needs up to three pages of tables, so a
program that scatters its pages holds four times its limit. Whoever waits for the job looks at it meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_COUNTED = (b"RssAnon:", b"RssShmem:", b"VmSwap:", b"VmPTE:")
"""Lines of /proc/PID/status (proc_pid_status(5)), in KiB: what it does not share with a file, and its page tables."""


def line_of(pid: int) -> list[int]:
    """A process, its child, the child of that, …; itself alone where it has none, or the kernel does not say."""
    line = [pid]
    while children := _children(line[-1]):
        line.append(children[-1])
    return line


def held_below(pid: int) -> int:
    """Bytes that the descendants of a process hold."""
    return sum(_held(child) for child in _descendants(pid))


def _descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        found = [int(child) for child in file.read().split()]
    return found


def _held(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        total = sum(int(line.split()[1]) for line in file if line.startswith(_COUNTED))
    return total << 10
