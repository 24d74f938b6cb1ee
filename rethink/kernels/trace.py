"""Names for what is being computed, for `rethink profile`. While nobody watches, a span is one comparison.

Spans nest. Their names are what the profile prints; native kernels go by the names of their C functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

Watcher = Callable[[str, tuple[int, ...]], AbstractContextManager[object]]
"""(name, sizes) -> what is entered around the span."""
P = ParamSpec("P")
R = TypeVar("R")

_NOTHING: AbstractContextManager[object] = nullcontext()
_watcher: Watcher | None = None


def span(name: str, *sizes: int) -> AbstractContextManager[object]:
    """A stretch of work, and how large it is in units of its own (e.g. the three sizes of a matrix product)."""
    return _NOTHING if _watcher is None else _watcher(name, sizes)


def watched() -> bool:
    """Whether a profile is being taken: what is one call then goes step by step, so that each step shows."""
    return _watcher is not None


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Each call of the function is a span."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if _watcher is None:
                return function(*args, **kwargs)
            with _watcher(name, ()):
                return function(*args, **kwargs)

        return call

    return decorate


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` see every span of this process; one at a time."""
    global _watcher
    if _watcher is not None:
        raise RuntimeError("spans are watched already")
    _watcher = watcher
    try:
        yield
    finally:
        _watcher = None
