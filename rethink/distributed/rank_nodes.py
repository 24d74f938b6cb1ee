"""Trainer ranks on the nodes of a cluster: an actor of Ray on a node starts a rank's process there, and watches it.

    first rank ── specs ──► a process that uses Ray ── Ray ──► RankHost ── pipes ──► the rank's process
               ◄── ends ───                         ◄─ looks ─

What ranks exchange does not pass through Ray. A process that uses Ray may be ended by Ray, so the first rank does not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rethink.distributed.clock import RunningClock
from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.layout import Demand
from rethink.distributed.nodes import Question
from rethink.distributed.rank_launch import CAUSE_SECONDS, LOOK_SECONDS, RankProcesses
from rethink.distributed.rank_process import RankSpec
from rethink.distributed.rank_watch import End, RankWatch
from rethink.distributed.ray_cluster import RayCluster
from rethink.distributed.ray_workers import short
from rethink.errors import RankLost, RethinkError

Look = tuple[set[int], dict[int, End]]
"""Who is ready, and who ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """The first rank's, for the others."""

    host: str


class RankNodes(RankWatch):
    """The first rank's side.

    Args:
        cluster: where.
        threads: of each rank.
        source: the model, as each rank reads it.
        note: told what a user should know of the machines.

    Raises:
        UsageError: Ray is not installed, does not answer, or has no room.
    """

    def __init__(self, cluster: Cluster, threads: int, source: str, note: Callable[[str], None]):
        super().__init__(range(1, cluster.ranks), CAUSE_SECONDS + cluster.hang_seconds)
        ray_module()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="rank watch", daemon=True)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, cluster, threads, source), name="rethink ranks", daemon=True
        )
        self._process.start()
        theirs.close()
        said: Any = None
        with contextlib.suppress(EOFError):
            while self._connection.poll(cluster.start_seconds) and isinstance(said := self._connection.recv(), str):
                note(said)
        if not isinstance(said, Address):
            self.close()
            raise said if isinstance(said, RethinkError) else RankLost("Ray did not start")
        self.address = said.host

    def start(self, specs: list[RankSpec]) -> None:
        """Start the ranks."""
        self._connection.send(specs)
        self._thread.start()

    def close(self) -> None:
        """See `RankWatch.close`."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            self._connection.close()  # it ends by itself then, and the ranks with it
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()

    def _carry(self) -> None:
        """Take in what is said; where a rank is lost, break what the first one waits for."""
        try:
            while not (self._closing.is_set() or any(end.primary for end in self.ends.values())):
                if self._connection.poll(LOOK_SECONDS):
                    self._take(self._connection.recv())
        except (EOFError, OSError):
            self._take(RankLost("its process ended"))
        if not self._closing.is_set():
            self._sever()

    def _take(self, said: Look | RethinkError) -> None:
        if isinstance(said, RethinkError):
            said = set(), {1: End(f"is watched no more: Ray ended ({said})")}
        for rank in said[0]:
            self._is_ready(rank)
        for rank, end in said[1].items():
            self._ended(rank, end)


class RankHost:
    """A rank's process on the node of this actor.

    Args:
        spec: of the rank.
        hang_seconds: see `RankProcesses`.
        address: gives the node's address for others.
    """

    def __init__(self, spec: RankSpec, hang_seconds: float, address: Callable[[], str]):
        self._processes = RankProcesses([dataclasses.replace(spec, host=address())], hang_seconds)

    def look(self) -> Look:
        """How it is."""
        return set(self._processes.ready), dict(self._processes.ends)


def serve(first: Connection, cluster: Cluster, threads: int, source: str) -> None:
    """The process: start the ranks' actors, and say how they are, until the first rank closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first rank's
    asked = Question([source] if os.path.isabs(source) else [])
    cluster = cluster.model_copy(update={"workers": 0})  # they are another process's
    ray = RayCluster(cluster, asked, first.send, Demand(threads, driver_bytes=None, worker_bytes=None))
    try:
        ray.connect()
        first.send(Address(ray_module().util.get_node_ip_address()))
        actors = {spec.rank: _start(spec, cluster, threads) for spec in first.recv()}
        _look_after(first, ray, cluster.hang_seconds, actors)
    except Exception as error:  # of Ray: it is told. Or the first rank has ended
        with contextlib.suppress(OSError):
            first.send(error if isinstance(error, RethinkError) else RankLost(short(error)))
            time.sleep(0.5)
    finally:
        ray.disconnect()


def _start(spec: RankSpec, cluster: Cluster, threads: int) -> Any:
    ray = ray_module()
    actor = ray.remote(RankHost).options(
        num_cpus=threads,
        max_restarts=0,
        scheduling_strategy="SPREAD",
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
    )
    return actor.remote(spec, cluster.hang_seconds, ray.util.get_node_ip_address)


def _look_after(first: Connection, ray: RayCluster, hang_seconds: float, actors: dict[int, Any]) -> None:
    """Say who is ready and who ended, for ever.

    Raises:
        RankLost: Ray does not answer.
        OSError: the first rank has closed the connection.
    """
    api, looks, heard = ray_module(), {rank: actor.look.remote() for rank, actor in actors.items()}, dict[int, float]()
    clock = RunningClock()
    while True:
        if first.poll(LOOK_SECONDS):
            first.recv()  # it sends nothing any more: the connection is closed
        now, ready, ends = clock.now(), set[int](), dict[int, End]()
        if (cause := ray.ill()) is not None:
            raise RankLost(cause)
        for rank, look in list(looks.items()):
            if api.wait([look], timeout=0)[0]:
                try:
                    found: Look = api.get(look)
                except api.exceptions.RayError as error:
                    found = set(), {rank: End(f"is lost with its node ({short(error)})")}
                ready, ends = ready | found[0], ends | found[1]
                looks[rank], heard[rank] = actors[rank].look.remote(), now
            elif now - heard.get(rank, now) > hang_seconds:  # one that has never answered is being started
                ends[rank] = End(f"is on a node that has not answered for {hang_seconds:.0f} s")
        first.send((ready, ends))
