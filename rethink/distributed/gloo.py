"""Tensors between processes over torch's gloo, each wait with a deadline and a name."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
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

Lost = Callable[[int, str], Exception]
"""(rank, what was waited for): the error that a broken wait is raised as."""


class GlooWire:
    """See `rank_group.Wire`.

    Args:
        meeting: a file that all ranks of this machine find each other by.
        rank: this one's number.
        size: how many there are.
        lost: makes the error.
        deadline: of each wait.
    """

    def __init__(self, meeting: Path, rank: int, size: int, lost: Lost, deadline: timedelta = LONGEST):
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=JOIN_SECONDS)
        self._lost, self._deadline = lost, deadline
        self._sent, self._received = [0] * size, [0] * size
        try:
            self._group = dist.ProcessGroupGloo(dist.FileStore(str(meeting), size), rank, size, options)
        except RuntimeError as error:
            raise lost(-1, "all ranks to join") from error

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
