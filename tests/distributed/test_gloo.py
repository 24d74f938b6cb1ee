"""Tensors between processes: who is found, where it is listened, and a wait that is broken."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from rethink.distributed.gloo import GlooWire, _sockets, find_store, serve_store

HERE = "127.0.0.1"


class Lost(Exception):
    """See `gloo.Lost`."""


def lost(rank: int, what: str) -> Exception:
    return Lost(f"{rank}: {what}")


@pytest.fixture
def wires() -> list[GlooWire]:
    """Both ends of a group of two, as if on two machines."""
    store, name = serve_store(HERE)
    found: dict[int, GlooWire] = {}

    def join(rank: int) -> None:
        found[rank] = GlooWire(find_store(name, 2) if rank else store, HERE, rank, 2, lost)

    other = threading.Thread(target=join, args=(1,))
    other.start()
    join(0)
    other.join(30)
    return [found[0], found[1]]


def listening() -> Iterator[str]:
    """Addresses on which this process listens."""
    for descriptor, _ in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and one.family in (socket.AF_INET, socket.AF_INET6):
                yield one.getsockname()[0]


def test_tensors_arrive_and_nothing_listens_elsewhere(wires: list[GlooWire]) -> None:
    sent, received = torch.arange(5), torch.zeros(5, dtype=torch.int64)
    waits = [wires[1].receive(0, received), wires[0].send(1, sent)]
    for wait in waits:
        wait("a test")
    assert torch.equal(sent, received)
    assert set(listening()) == {HERE}


def test_a_wait_for_a_silent_rank_is_broken(wires: list[GlooWire]) -> None:
    """The other side is there and sends nothing; a connection of somebody else stays."""
    here, there = socket.socketpair()
    wait = wires[0].receive(1, torch.zeros(3))
    threading.Timer(0.2, wires[0].sever).start()
    with pytest.raises(Lost, match=r"^1: its part of the step, since \d+ s$"):
        wait("its part of the step")
    here.send(b"x")
    assert there.recv(1) == b"x"
