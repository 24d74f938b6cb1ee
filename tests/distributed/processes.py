"""Processes that a test has started, found by a mark in their environment: others may test on this machine too."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "RETHINK_TESTED_BY"
"""Environment variable that holds the mark."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lives."""

    id: int
    parent: int
    words: tuple[str, ...]
    """Its command line."""
    environment: dict[str, str]


def marked(mark: str) -> Iterator[Process]:
    """All processes with a mark."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                if f"{MARK}={mark}" not in variables:
                    continue
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            environment = dict(variable.split("=", 1) for variable in variables if "=" in variable)
            yield Process(int(folder.name), parent, tuple(words), environment)


def role(process: Process) -> str | None:
    """What a process of a run is: `worker`, `rank`, `raylet`, `gcs_server`, `ray process`; None: something else."""
    if "RETHINK_WORKER" in process.environment:
        return "worker"
    if "RETHINK_RANK" in process.environment:
        return "rank"
    program = process.words[0].rpartition("/")[2]
    if program in ("raylet", "gcs_server"):
        return program
    return "ray process" if "--multiprocessing-fork" in process.words else None


def end_all(mark: str) -> None:
    """Kill them."""
    for process in marked(mark):
        with contextlib.suppress(OSError):
            os.kill(process.id, signal.SIGKILL)


def left_over(mark: str, seconds: float) -> list[str]:
    """Command lines of those that still live after so many seconds; returns at once where there are none."""
    until = time.monotonic() + seconds
    while (found := list(marked(mark))) and time.monotonic() < until:
        time.sleep(0.2)
    return [" ".join(process.words) for process in found]
