"""Sandboxes that are kept warm: starting one takes a tenth of a second, a job in a warm one a few milliseconds."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeVar

from rethink.rewards.sandbox.isolation import Choice, Contents
from rethink.rewards.sandbox.process import Sandbox
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure

Done = TypeVar("Done")
ATTEMPTS = 2
"""How often a judgement is tried whose sandbox breaks."""
AT_ONCE = 8
"""Judgements at once in a process; others wait. More than cores, since programs that sleep must not hold up others;
not many more, since each may use its limit of memory."""
WITH_PACKAGES = min(AT_ONCE, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
"""The same for sandboxes with packages: they compute, and each takes two seconds and 100 MB to start."""


def _all_places() -> dict[Contents, threading.BoundedSemaphore]:
    return {
        "standard": threading.BoundedSemaphore(AT_ONCE),
        "reasoning-gym": threading.BoundedSemaphore(WITH_PACKAGES),
    }


_lock = threading.Lock()
_places = _all_places()
_free: dict[tuple[Choice, Contents], list[Sandbox]] = defaultdict(list)


@contextlib.contextmanager
def borrow(choice: Choice, count: int, contents: Contents = "standard") -> Iterator[list[Sandbox]]:
    """So many sandboxes for one judgement; from any thread. One that broke meanwhile is not used again.

    Raises:
        SandboxUnavailable: none can be started here.
    """
    taken: list[Sandbox] = []
    places = _places[contents]
    places.acquire()
    try:
        for _ in range(count):
            taken.append(_take(choice, contents))  # noqa: PERF401 - those taken before one fails must be given back
        yield taken
    finally:
        for sandbox in taken:
            if sandbox.alive:
                with _lock:
                    _free[choice, contents].append(sandbox)
            else:
                sandbox.close()
        places.release()


def with_sandboxes(
    choice: Choice, count: int, work: Callable[[list[Sandbox]], Done], contents: Contents = "standard"
) -> Done:
    """Do a judgement's work in so many sandboxes. Where one breaks (the machine ran out of memory and killed it, say)
    it is replaced, and the work done again.

    Raises:
        SandboxUnavailable: none can be started here.
        SandboxFailure: they broke again.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(SandboxFailure), borrow(choice, count, contents) as sandboxes:
            return work(sandboxes)
    with borrow(choice, count, contents) as sandboxes:
        return work(sandboxes)


def _take(choice: Choice, contents: Contents) -> Sandbox:
    with _lock:
        free = _free[choice, contents]
        while free:
            sandbox = free.pop()
            if sandbox.alive:
                return sandbox
            sandbox.close()
    return Sandbox(choice, contents)


def _forget() -> None:
    """In a fork: its parent's sandboxes are not its own, nor may it keep them alive by an open socket."""
    global _lock, _places
    _lock, _places = threading.Lock(), _all_places()
    for sandboxes in _free.values():
        for sandbox in sandboxes:
            sandbox.forget()
    _free.clear()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def close_all() -> None:
    """End the sandboxes of this process that no judgement holds."""
    with _lock:
        for sandboxes in _free.values():
            while sandboxes:
                sandboxes.pop().close()
