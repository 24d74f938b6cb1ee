"""Ray in a process of its own, so that the trainer outlives it: a process that uses Ray may be ended by Ray.

    trainer ── orders, weights (a file) ──► this process ── Ray ──► workers
            ◄── events ──────────────────

Where this process ends, or Ray does, it is started again with all workers; samples are asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.protocol import Order
from rethink.distributed.ray_cluster import RayCluster
from rethink.distributed.ray_workers import RayWorkers
from rethink.distributed.rollout_worker import WorkerSpec
from rethink.distributed.transport import STORED, Event, Joined, Lost, Reported, WorkersRefused
from rethink.errors import EngineFailure, RethinkError

POLL_SECONDS = 0.02
FAILED_STARTS = 3
"""Times in a row that Ray may end before a worker has joined."""
Note = str
Said = list[Event] | Note | RethinkError
"""What comes from the process; an error ends it."""


class RayProcess:
    """See `transport.Transport`.

    Args:
        cluster: where.
        spec: what each worker loads.
        expected: facts that a worker's must equal, where the cluster wants the same bits.
        note: told what a user should know.

    Raises:
        UsageError: Ray is not installed, does not answer, or has too few processors.
    """

    def __init__(self, cluster: Cluster, spec: WorkerSpec, expected: dict[str, str], note: Callable[[str], None]):
        ray_module()
        self.busy: set[str] = set()
        self.stores = 0
        self._given = cluster, spec, expected
        self._note = note
        self._names: set[str] = set()
        """Workers that have joined."""
        self._fruitless = 0
        self._files = tempfile.TemporaryDirectory(prefix="rethink-weights-", dir=_memory_folder())
        self._stored = 0
        self._sending = threading.Lock()
        """The trainer's thread stores weights while the pool's sends orders; a connection takes one at a time."""
        self._start()
        first = self._connection.recv() if self._connection.poll(cluster.start_seconds) else None
        if not isinstance(first, list):
            self.close()
            raise first if isinstance(first, RethinkError) else EngineFailure("Ray did not start")

    def receive(self, seconds: float) -> list[Event]:
        """See `Transport.receive`."""
        try:
            said: Said = self._connection.recv() if self._connection.poll(seconds) else []
        except (EOFError, OSError):
            return self._again("its process ended")
        if isinstance(said, WorkersRefused):
            raise said
        if isinstance(said, RethinkError):
            return self._again(str(said))
        if isinstance(said, Note):
            self._note(said)
            return []
        for event in said:
            match event:
                case Joined(hello):
                    self._names.add(hello.name)
                    self._fruitless = 0
                case Reported(name, _) | Lost(name, _, _):
                    self.busy.discard(name)
        return said

    def send(self, name: str, order: Order) -> None:
        """See `Transport.send`."""
        self.busy.add(name)
        self._say(("order", name, order))

    def kill(self, name: str, why: str) -> None:
        """See `Transport.kill`."""
        self.busy.discard(name)
        self._say(("kill", name, why))

    def ask_stacks(self, name: str) -> None:
        """See `Transport.ask_stacks`."""
        self._say(("stacks", name))

    def store(self, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
        """See `Transport.store`: a file in memory, which the process puts into Ray's object store."""
        self._stored += 1
        path = Path(self._files.name) / str(self._stored)
        layout = {}
        with path.open("wb") as file:
            for name, array in arrays.items():
                layout[name] = (file.tell(), array.dtype.str, array.shape)
                file.write(np.ascontiguousarray(array).data)
        self._say(("store", self._stored, str(path), layout))
        return self._stored

    def close(self) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(OSError):
            self._connection.close()  # it ends by itself then, and Ray with it
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()
        self._files.cleanup()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *self._given), name="rethink ray", daemon=True)
        self._process.start()
        theirs.close()
        self.stores += 1

    def _again(self, cause: str) -> list[Event]:
        """Start the process again; all that it held is lost.

        Raises:
            EngineFailure: it ends each time before a worker joins.
        """
        self._fruitless += 1
        if self._fruitless >= FAILED_STARTS:
            raise EngineFailure(f"Ray ends again and again: {cause}")
        self._note(f"Ray ended ({cause}); it is started again, with all workers.")
        if self._process.is_alive():
            self._process.kill()
        self._process.join(timeout=20)
        lost: list[Event] = [Lost(name, f"Ray ended: {cause}") for name in sorted(self._names)]
        self._names.clear()
        self.busy.clear()
        self._start()
        return lost

    def _say(self, what: tuple[Any, ...]) -> None:
        with self._sending, contextlib.suppress(OSError):  # it has ended: `receive` finds out
            self._connection.send(what)


def serve(trainer: Connection, cluster: Cluster, spec: WorkerSpec, expected: dict[str, str]) -> None:
    """The process: carry orders to Ray's workers and their events back, until the trainer closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which lets the step end
    paths = [spec.source] if os.path.isabs(spec.source) else []
    ray, workers = RayCluster(cluster, paths), None
    try:
        ray.connect()
        workers = RayWorkers(ray, spec, expected, trainer.send)
        trainer.send([])
        kept: dict[int, Any] = {}
        while True:
            while trainer.poll():
                _obey(trainer.recv(), workers, kept)
            if events := workers.receive(POLL_SECONDS):
                trainer.send(events)
    except RethinkError as error:
        with contextlib.suppress(OSError):
            trainer.send(error)
            time.sleep(0.5)
    except (EOFError, OSError):
        pass
    finally:
        if workers is not None:
            workers.close()
        ray.disconnect()


def _obey(said: tuple[Any, ...], workers: RayWorkers, kept: dict[int, Any]) -> None:
    match said:
        case ("order", name, order):
            known = [dataclasses.replace(w, source=kept[w.source]) for w in order.weights if w.source in kept]
            workers.send(name, dataclasses.replace(order, weights=tuple(known)))
        case ("kill", name, why):
            workers.kill(name, why)
        case ("stacks", name):
            workers.ask_stacks(name)
        case ("store", number, path, layout):
            data = np.memmap(path, dtype=np.uint8, mode="r")
            arrays = {}
            for name, (start, kind, shape) in layout.items():
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                arrays[name] = data[start : start + size].view(kind).reshape(shape)
            kept[number] = ray_module().put({name: np.asarray(array) for name, array in arrays.items()})
            os.unlink(path)
            for old in sorted(kept)[:-STORED]:
                del kept[old]


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
