"""Trainer ranks that shard weights: besides orders and reports, collective exchanges by torch (gloo or NCCL).

Reports go from rank to rank as those of replicated ranks do. Between GPUs, NCCL carries weights and gradients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout

from rethink.distributed.gloo import HERE, JOIN_SECONDS, LONGEST, GlooWire, Lost, file_store
from rethink.distributed.rank_group import FAILED, Group
from rethink.distributed.sharded_model import Sharding
from rethink.runs.ranks import Named

dist: Any = torch.distributed
"""torch declares only a part of it."""


class ShardedGroup(Group):
    """See `Group`. The process may have one at a time, since FSDP uses torch's default group.

    Args:
        meeting: a file that all ranks of this machine find each other by; a second one beside it is for torch's group.
        rank: this one's number.
        size: how many there are.
        device: `cpu`, or `cuda`: the GPU of the rank's number.
        recompute: see `Sharding`.
        lost: makes the error of a broken wait.
        end: ends the other ranks; called on the first.
    """

    def __init__(
        self,
        meeting: Path,
        rank: int,
        size: int,
        device: str,
        recompute: bool,
        lost: Lost,
        end: Callable[[], None] = lambda: None,
    ):
        super().__init__(GlooWire(file_store(str(meeting), size), HERE, rank, size, lost), rank, size, end)
        self._lost = lost
        own = torch.device(device, rank) if device == "cuda" else torch.device(device)
        with self.exchanging("all ranks to join"):
            _join(meeting.with_name("collectives"), rank, size, own)
        exchange = partial(self.exchanging, timed=False)  # a pass computes meanwhile
        self.sharding = Sharding(init_device_mesh(device, (size,)), own, recompute, exchange)

    @contextmanager
    def exchanging(self, what: str, *, timed: bool = True) -> Iterator[None]:
        """Within, a broken connection raises the error of a lost rank.

        Args:
            what: is waited for.
            timed: whether it is nothing but exchange, and counts as such.
        """
        started = time.perf_counter()
        try:
            yield
            self._seconds += time.perf_counter() - started if timed else 0.0
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise self._lost(-1, what) from error
            raise

    def broadcast(self, tensor: Tensor) -> None:
        """Make a tensor on every rank what it is on the first."""
        dist.broadcast(tensor, 0)

    def sum(self, tensor: Tensor) -> None:
        """Make a tensor on every rank the sum over all."""
        dist.all_reduce(tensor)

    def share(self, tensors: Named, owners: Any) -> None:
        """See `Ranks.share`; all tensors are the first rank's."""
        with self.exchanging("a weight"):
            for tensor in tensors.values():
                self.broadcast(tensor)

    def failure_of(self, do: Callable[[], None]) -> str | None:
        """Do something, as all ranks do. On the first rank: what failed, and of whom; the others report to it."""
        own = None
        try:
            do()
        except Exception as error:  # whatever it is, the first rank decides what becomes of it
            own = f"rank {self.rank}: {type(error).__name__}: {error}"
        if self.rank:
            self.report({} if own is None else {FAILED: own})
            return own
        failures = [own, *(self._hear(rank, "its part of the checkpoint")[0].get(FAILED) for rank in self._others)]
        return next((failure for failure in failures if failure), None)

    def close(self) -> None:
        """See `Ranks.close`."""
        super().close()
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(meeting: Path, rank: int, size: int, device: torch.device) -> None:
    """Make torch's default group, on this machine's own addresses."""
    store = dist.FileStore(str(meeting), size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    options = {"device_id": device} if device.type == "cuda" else {}
    make = partial(dist.init_process_group, backend, store=store, rank=rank, world_size=size, **options)
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo would listen on the address of the host's name
    try:
        make(timeout=timedelta(seconds=JOIN_SECONDS))
    finally:
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]
        else:
            os.environ["GLOO_SOCKET_IFNAME"] = before
    _set_pg_timeout(LONGEST, dist.group.WORLD)
