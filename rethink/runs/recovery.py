"""A run that loses a trainer rank goes on from its last checkpoint, in the same command."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rethink.errors import RankLost
from rethink.store.cluster_log import add_event

FRUITLESS = 3
"""Times in a row that ranks may be lost before there is another checkpoint."""
T = TypeVar("T")


def until_done(attempt: Callable[[bool], T], resume: bool, out: Path, note: Callable[[str], None]) -> T:
    """The result of `attempt(resume)`, called again with `resume` whenever a rank is lost.

    Args:
        attempt: runs what `out` holds; with True it goes on from there.
        resume: for the first attempt.
        out: folder of the run, or of the pipeline.
        note: told what was lost; it is recorded in `out` too.

    Raises:
        RankLost: ranks are lost again and again, and the run gets no further; it can be resumed.
    """
    fruitless = 0
    before: list[str] = []
    while True:
        try:
            return attempt(resume)
        except RankLost as error:
            lost = str(error)
        about = {"event": "lost", "time": time.time(), "worker": "trainer ranks", "host": socket.gethostname()}
        add_event(out, about | {"cause": lost})
        gc.collect()  # the model and optimizer of the attempt, before the next one loads its own
        now = _checkpoints(out)
        fruitless = fruitless + 1 if now == before else 1
        if fruitless >= FRUITLESS:
            raise RankLost(
                f"{lost}. Ranks were lost {fruitless} times without a new checkpoint in between, so the run stops; "
                "what was saved is sound. Find the cause (memory?), then go on with the same command and --resume"
            )
        note(f"{lost}. All ranks are started again, and the run goes on from its last checkpoint.")
        resume, before = True, now


def _checkpoints(out: Path) -> list[str]:
    return sorted(str(path) for path in out.rglob("checkpoints/step-*"))
