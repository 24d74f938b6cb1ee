"""Tensors between processes over torch's gloo, each wait with a deadline and a name."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

dist: Any = torch.distributed
"""torch declares only a part of the process group that it has."""

LONGEST = timedelta(hours=24)
"""Of a wait between live processes: they are watched by other means, so this is the last resort. A rank waits for the
next order while the first one samples or evaluates."""
JOIN_SECONDS = 60.0
MOST_TAGS = 1 << 30

HERE = "127.0.0.1"
"""Where ranks listen that are all on one machine."""

Lost = Callable[[int, str], Exception]
"""(rank, what was waited for): the error that a broken wait is raised as."""


class GlooWire:
    """See `rank_group.Wire`.

    Args:
        store: by which all ranks find each other; it is not needed afterwards.
        host: this machine's address for the other ranks. It listens there alone.
        rank: this one's number.
        size: how many there are.
        lost: makes the error.
    """

    def __init__(self, store: Any, host: str, rank: int, size: int, lost: Lost):
        options = dist.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=JOIN_SECONDS)
        self._host, self._lost = str(socket.getaddrinfo(host, None)[0][4][0]), lost
        self._deadline = options._timeout
        self._sent, self._received = [0] * size, [0] * size
        before = _sockets()
        try:
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
            self._group = dist.ProcessGroupGloo(store, rank, size, options)
        except RuntimeError as error:
            raise lost(-1, "all ranks to join") from error
        self._sockets = _sockets() - before
        there = torch.zeros(1, dtype=torch.uint8)
        for other in range(1, size) if rank == 0 else ():
            self.receive(other, there)("it to join")
        if rank:
            self.send(0, there)("it to join")
        self._deadline = LONGEST

    def sever(self) -> None:
        """Break every wait, from another thread: gloo itself ends none whose other side is silent."""
        for descriptor, name in self._sockets:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{descriptor}") != name:
                    continue  # it was closed, and its number given to something else
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    if connection.getsockname()[0] == self._host and not listens:
                        connection.shutdown(socket.SHUT_RDWR)

    def send(self, to: int, tensor: Tensor) -> Callable[[str], None]:
        """See `Wire.send`."""
        self._sent[to] = (self._sent[to] + 1) % MOST_TAGS
        return self._begin(to, lambda raw: self._group.send([raw], to, self._sent[to]), tensor)

    def receive(self, source: int, tensor: Tensor) -> Callable[[str], None]:
        """See `Wire.receive`."""
        self._received[source] = (self._received[source] + 1) % MOST_TAGS
        return self._begin(source, lambda raw: self._group.recv([raw], source, self._received[source]), tensor)

    def _begin(self, rank: int, start: Callable[[Tensor], Any], tensor: Tensor) -> Callable[[str], None]:
        if not tensor.numel():
            return lambda what: None
        raw, since = tensor.view(-1).view(torch.uint8), time.monotonic()

        def wait(what: str) -> None:
            try:
                work.wait(self._deadline)
            except RuntimeError as error:
                waited = f"{what}, since {time.monotonic() - since:.0f} s"
                raise self._lost(rank, waited) from error

        try:
            work = start(raw)
        except RuntimeError as error:
            raise self._lost(rank, "a connection") from error
        return wait


def file_store(path: str, size: int) -> Any:
    """A store in a file, for ranks of one machine."""
    return dist.FileStore(path, size)


def serve_store(host: str) -> tuple[Any, str]:
    """A store that this process serves to other machines, at an address of its own alone; and the name that leads them
    to it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)
    port, waits = listening.getsockname()[1], timedelta(seconds=JOIN_SECONDS)
    store = dist.TCPStore(
        host, port, is_master=True, timeout=waits, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    return store, f"tcp:{host}:{port}"


def find_store(name: str, size: int) -> Any:
    """The store of that name: a file's path, or `tcp:HOST:PORT`."""
    if not name.startswith("tcp:"):
        return file_store(name, size)
    host, _, port = name.removeprefix("tcp:").rpartition(":")
    return dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=JOIN_SECONDS))


def _sockets() -> set[tuple[int, str]]:
    """(descriptor, name) of each socket that this process has open."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add((int(descriptor), os.readlink(f"/proc/self/fd/{descriptor}")))
    return {entry for entry in found if entry[1].startswith("socket:")}
