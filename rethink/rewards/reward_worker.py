"""A reward worker: builds the parts that it is asked for, and scores until its connection ends."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import socket
import sys
from collections.abc import Mapping
from typing import Any

from rethink.rewards.outcome import OUT_OF_MEMORY, failure_of
from rethink.rewards.parts import Part, build_part, score_items
from rethink.rewards.sandbox.inside.confine import set_filter
from rethink.rewards.worker_wire import encode, outcome_to_plain, plain_to_item, receive
from rethink.terminal import say
from rethink.types import RewardOutcome

RECURSION = 3000
"""Depth that a checker may reach: deeper ones are exceptions, long before the C stack ends."""


def serve(connection: socket.socket, setup: Mapping[str, Any]) -> None:
    """Score jobs until the other side closes.

    Memory is limited by RLIMIT_DATA: private writable memory, that is heap and anonymous mappings. Mapped libraries do
    not count, so a limit means the same whichever libraries a checker loads. A worker that runs built-in parts alone
    also gives up writing files, starting processes and making sockets (`filter`, see `rethink.rewards.reward_pool`).
    """
    limit = int(setup["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _give_up_the_host(setup.get("filter"))
    sys.setrecursionlimit(RECURSION)
    parts: dict[int, Part] = {}
    connection.sendall(encode({"ready": True}))
    while (job := receive(connection)) is not None:
        connection.sendall(encode({"begun": True}))
        outcomes = _outcomes(parts, setup, job)
        # What is left of a process that ran out of memory is not to be trusted; another takes its place.
        leaving = any((outcome.failure or "").startswith(OUT_OF_MEMORY) for outcome in outcomes)
        connection.sendall(encode({"outcomes": [outcome_to_plain(o) for o in outcomes], "leaving": leaving}))
        if leaving:
            return


def _give_up_the_host(bpf: str | None) -> None:
    """Set the filter of system calls. It is a second wall, so a kernel that has none stops nothing, but says so."""
    if bpf is None:
        return
    try:
        set_filter(ctypes.CDLL(None, use_errno=True), bytes.fromhex(bpf))
    except OSError as error:
        say(f"reward workers run without a filter of system calls here ({error})", file=sys.stderr, flush=True)


def _outcomes(parts: dict[int, Part], setup: Mapping[str, Any], job: Mapping[str, Any]) -> list[RewardOutcome]:
    index = job["part"]
    try:
        if index not in parts:
            parts[index] = build_part(setup["rubric"], index)
        return score_items(parts[index], [plain_to_item(item) for item in job["items"]])
    except Exception as error:
        return [failure_of(error)] * len(job["items"])


def preload(setup: Mapping[str, Any]) -> None:
    """Import what the parts need once, before workers are forked, so that each starts warm."""
    rubric = setup["rubric"]
    for index, part in enumerate(rubric["parts"]):
        # A function of the user's is imported by the worker: its module may start threads, which a fork would break.
        if part["function"] is None and index in setup["worker_parts"]:
            with contextlib.suppress(Exception):  # what is wrong with it shows where it is called, as a failure
                build_part(rubric, index).warm()
