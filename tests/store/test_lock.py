"""A lock file lets one holder in at a time, threads of one process too."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from rethink.store.lock import one_at_a_time


def test_a_waiting_lock_excludes_another_thread_of_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "entry.lock"
    with one_at_a_time(path), path.open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
