"""The tiny run of the GRPO tests, on a cluster."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.distributed.launch import Hosts, down, up
from rethink.distributed.rank_group import Group
from tests.kinds.grpo.conftest import write_recipe

At = Callable[[set[int], Callable[[], None]], None]


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of the GRPO tests on a model that the native kernels serve whole, so that its engine is exact."""
    return write_recipe(tmp_path, tiny_folder("llama", head_dim=16), monkeypatch)


@pytest.fixture
def two_hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """A list of two hosts that are this machine, for Ray on a port of its own; ended if it was started."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    own = tempfile.mkdtemp(prefix="ray-")  # a short path, for its sockets
    monkeypatch.setenv("RAY_TMPDIR", own)  # Ray leaves a file here that others would find
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    listed = [{"host": name, "cpus": 2} for name in ("127.0.0.1", "localhost")]
    try:
        yield Hosts.model_validate({"hosts": listed, "port": port, "seconds": 120})
    finally:
        shutil.rmtree(own)


@pytest.fixture
def two_nodes(two_hosts: Hosts) -> Iterator[str]:
    """The address of a cluster of two nodes, which are two raylets of this machine with two processors each."""
    try:
        up(two_hosts, print)
        yield two_hosts.address
    finally:
        down(two_hosts, print)


@pytest.fixture
def at_exchange(monkeypatch: pytest.MonkeyPatch) -> At:
    """`at_exchange(numbers, strike)`: strike in the midst of steps: before the first rank's exchanges of gradients of
    these numbers."""

    def on(numbers: set[int], strike: Callable[[], None]) -> None:
        add, calls = Group.add, [0]

        def watched(group: Group, *arguments: Any) -> None:
            calls[0] += group.rank == 0
            if group.rank == 0 and calls[0] in numbers:
                strike()
            add(group, *arguments)

        monkeypatch.setattr(Group, "add", watched)

    return on
