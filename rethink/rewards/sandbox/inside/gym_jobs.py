"""Jobs for reasoning-gym's own code: make a problem's entry, or have the task's scorer judge an answer.

Each job is a process of its own, so whatever an answer does to the library ends with it. An entry is made in a process
that has seen no answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from . import wire

MAX_WHY = 300


def make_entry(payload: dict[str, Any]) -> int:
    """Send `{"entry": …}` (see `wire`) of a problem: the payload's `task`, `params` and `index`."""

    def work() -> Any:
        entry = _dataset(payload)[payload["index"]]
        return {"entry": wire.encode(dict(entry), _plain_only)}

    return _reply(work)


def score(payload: dict[str, Any]) -> int:
    """Send `{"score": number}`: what the scorer of `task` with `params` says of `said` for `entry`."""

    def work() -> Any:
        dataset, entry = _dataset(payload), wire.decode(payload["entry"], _no_object)
        try:
            return {"score": float(dataset.score_answer(payload["said"], entry))}
        except Exception as error:
            return {"raised": _why(error)}

    return _reply(work)


def _dataset(payload: dict[str, Any]) -> Any:
    import reasoning_gym  # loaded by the zygote

    return reasoning_gym.create_dataset(payload["task"], **{"seed": 0, **payload["params"]})


def _reply(work: Callable[[], Any]) -> int:
    """Do the work with standard output closed to it; what goes wrong is `{"failed": why}`."""
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        message = work()
    except Exception as error:
        message = {"failed": _why(error)}
    data = memoryview(wire.dumps(message))
    while data:
        data = data[os.write(replies, data) :]
    return 0


def _plain_only(value: Any) -> Any:
    raise TypeError(f"the entry holds a {type(value).__name__}, which is no plain data")


def _no_object(number: int) -> Any:
    raise wire.Unreadable(f"object {number} is not known here")


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_WHY]
