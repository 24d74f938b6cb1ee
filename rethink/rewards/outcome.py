"""What a reward part says of one rollout: a score, an abstention, or a failure with a named cause."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rethink.endpoint.reply import NoReply
from rethink.tasks.plugins import where_raised
from rethink.types import Completion, Problem, Prompt, RewardOutcome

PartFunction = Callable[[Problem, Prompt, Completion], float | None]
"""A score, or None to abstain. May raise: that is a failure of the part, recorded and counted."""

TIMEOUT, CRASH, OUT_OF_MEMORY, INVALID, EXCEPTION = "timeout", "crash", "out of memory", "invalid", "exception"
CAUSES = (TIMEOUT, CRASH, OUT_OF_MEMORY, INVALID, EXCEPTION)
"""Names that a failure begins with, before the colon; metrics count by them."""

SHOWN = 300
"""Characters of a failure that are kept."""


class PartFailed(Exception):
    """Raised by a part that knows why it failed.

    Args:
        cause: one of `CAUSES`.
        detail: one line for the reader.
    """

    def __init__(self, cause: str, detail: str):
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail


def failed(cause: str, detail: str) -> RewardOutcome:
    """A failure, cut to what is kept."""
    return RewardOutcome(None, f"{cause}: {detail}"[:SHOWN])


def failure_of(error: BaseException) -> RewardOutcome:
    """The failure that an exception of a part means, with the line of the user's file that raised it."""
    if isinstance(error, PartFailed | NoReply):
        return failed(error.cause, error.detail)
    if isinstance(error, TimeoutError):
        return failed(TIMEOUT, str(error))
    if isinstance(error, MemoryError):
        return failed(OUT_OF_MEMORY, f"{error}{where_raised(error)}" if str(error) else where_raised(error).strip())
    return failed(EXCEPTION, f"{type(error).__name__}: {str(error)[: SHOWN // 2]}{where_raised(error)}")


def outcome_of(value: Any) -> RewardOutcome:
    """The outcome that a returned value means; what is neither a finite number nor None is invalid."""
    if value is None:
        return RewardOutcome(None)
    # Numbers of NumPy and 0-d tensors convert; a text such as "1" would too, and is a mistake.
    if isinstance(value, str | bytes):
        return failed(INVALID, f"returned {value[:40]!r}, a {type(value).__name__}, where a number or None is expected")
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return failed(INVALID, f"returned a {type(value).__name__} where a number or None is expected")
    return RewardOutcome(score) if math.isfinite(score) else failed(INVALID, f"not finite: {score}")


def placed(
    function: PartFunction,
    warm: Callable[[], object] = lambda: None,
    place: str | None = None,
    places: Mapping[str, str] | None = None,
) -> PartFunction:
    """A part's function with what its table line cannot say.

    Args:
        function: of the part.
        warm: loads what the first call would load.
        place: where it is called, in place of what the table says.
        places: the same for the problems of some tasks, by their names.
    """
    for name, value in (("warm", warm), ("place", place), ("places", places or {})):
        setattr(function, name, value)
    return function


def run_part(function: PartFunction, problem: Problem, prompt: Prompt, completion: Completion) -> RewardOutcome:
    """Call a part; whatever it does becomes an outcome."""
    try:
        return outcome_of(function(problem, prompt, completion))
    # A checker may end anyhow on hostile text (RecursionError, MemoryError, `sys.exit`); Ctrl-C is none of these.
    except (Exception, SystemExit) as error:
        return failure_of(error)
