"""Ray in a process of its own, so that the trainer outlives it: a process that uses Ray may be ended by Ray.

    trainer ── orders, weights (a file) ──► this process ── Ray ──► workers
            ◄── events ──────────────────

Where this process ends or falls silent, or Ray does, it is started again with all workers; samples are asked again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from rethink.distributed.clock import RunningClock
from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.nodes import Question
from rethink.distributed.protocol import Hello, Order
from rethink.distributed.ray_cluster import RayCluster
from rethink.distributed.ray_workers import RayWorkers, kill_here, short
from rethink.distributed.rollout_worker import WorkerSpec
from rethink.distributed.transport import STORED, Event, Joined, Lost, Reported, StoreFull, WorkersRefused
from rethink.errors import EngineFailure, RethinkError, UsageError
from rethink.plan.estimate_text import size_text

POLL_SECONDS, BEAT_SECONDS = 0.02, 1.0
NAME_SECONDS = 10.0
"""After how long it is said that Ray's start is waited for."""
FAILED_STARTS = 3
"""Times in a row that Ray may end before a worker has joined."""
Note = str
Said = list[Event] | Note | RethinkError | None
"""What comes from the process: None says that it lives, the first list that Ray is joined; an error ends it."""


class RayProcess:
    """See `transport.Transport`.

    Args:
        cluster: where.
        spec: what each worker loads.
        expected: facts that a worker's must equal, where the cluster wants the same bits.
        note: told what a user should know.
        weights: bytes of a version of them.

    Raises:
        UsageError: Ray is not installed, does not answer, or has too few processors; or there is no room for weights.
    """

    def __init__(
        self, cluster: Cluster, spec: WorkerSpec, expected: dict[str, str], note: Callable[[str], None], weights: int
    ):
        ray_module()
        self.busy: set[str] = set()
        self.stores = 0
        self._given = cluster, spec, expected
        self._note = note
        self._joined: dict[str, Hello] = {}
        self._fruitless = 0
        self._files = tempfile.TemporaryDirectory(prefix="rethink-weights-", dir=folder_for(weights))
        self._stored, self._unread = 0, list[Path]()
        self._clock, self._heard = RunningClock(), float("inf")
        self._ready = False
        self._start()
        try:
            self._await_ready()
        except BaseException:
            self.close()
            raise

    def receive(self, seconds: float) -> list[Event]:
        """See `Transport.receive`."""
        hang_seconds = self._given[0].hang_seconds
        try:
            said = self._said.get(timeout=seconds)
            self._heard = self._clock.now()
        except queue.Empty:
            if self._clock.now() - self._heard > hang_seconds:
                return self._again(f"its process has not answered for {hang_seconds:.0f} s")
            return []
        if isinstance(said, EOFError):
            return self._again(self._end())
        if isinstance(said, WorkersRefused | StoreFull) or (isinstance(said, UsageError) and not self._ready):
            raise said
        if isinstance(said, RethinkError):
            return self._again(str(said))
        if isinstance(said, Note):
            self._note(said)
        if not isinstance(said, list):
            return []
        self._ready = True
        for event in said:
            match event:
                case Joined(hello):
                    self._joined[hello.name] = hello
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
        self._unread = [*(other for other in self._unread if other.exists()), path]
        layout = {}
        with path.open("wb") as file:
            for name, array in arrays.items():
                layout[name] = (file.tell(), array.dtype.str, array.shape)
                file.write(np.ascontiguousarray(array).data)
        self._say(("store", self._stored, str(path), layout))
        return self._stored

    def close(self) -> None:
        """See `Transport.close`."""
        self._orders.put(None)  # it ends by itself then, and Ray with it
        self._process.join(timeout=20)
        self._process.kill()
        self._files.cleanup()

    def _await_ready(self) -> None:
        """Until Ray is joined.

        Raises:
            UsageError: it cannot be.
            EngineFailure: it takes too long, or ends again and again.
        """
        cluster, named = self._given[0], False
        while not self._ready:
            self.receive(POLL_SECONDS)
            waited = self._clock.now()
            if waited > cluster.start_seconds:
                raise EngineFailure(
                    f"Ray (`address: {cluster.address}`) did not start within {cluster.start_seconds:.0f} s "
                    "(`start_seconds` of the cluster file)"
                )
            if waited > NAME_SECONDS and not named:
                named = True
                self._note(f"Waiting for Ray (`address: {cluster.address}`) to start, for {waited:.0f} s.")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        given = (theirs, *self._given, self._files.name)
        self._process = context.Process(target=serve, args=given, name="rethink ray", daemon=True)
        self._process.start()
        theirs.close()
        self._orders: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[Said | EOFError] = queue.SimpleQueue()
        for carry, messages in ((_send_all, self._orders), (_receive_all, self._said)):
            threading.Thread(target=carry, args=(ours, messages), daemon=True).start()
        self.stores += 1

    def _end(self) -> str:
        """How the process ended."""
        self._process.join(timeout=5)
        code = self._process.exitcode or 0
        return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else "its process ended"

    def _again(self, cause: str) -> list[Event]:
        """Start the process again; all that it held is lost.

        Raises:
            EngineFailure: it ends each time before a worker joins.
        """
        self._fruitless += 1
        if self._fruitless >= FAILED_STARTS:
            raise EngineFailure(f"Ray ends again and again: {cause}")
        self._note(f"Ray ended ({cause}); it is started again, with all workers.")
        self._process.kill()
        self._process.join(timeout=20)
        lost: list[Event] = []
        for name, hello in sorted(self._joined.items()):
            kill_here(hello)  # one that is stopped does not see that Ray has ended
            lost.append(Lost(name, f"Ray ended: {cause}", hello.facts.get("host", "")))
        unread, self._unread = self._unread, []
        for path in unread:
            path.unlink(missing_ok=True)
        self._joined.clear()
        self.busy.clear()
        self._orders.put(None)
        self._heard = float("inf")
        self._start()
        return lost

    def _say(self, what: tuple[Any, ...]) -> None:
        self._orders.put(what)


def _send_all(connection: Connection, orders: queue.SimpleQueue[tuple[Any, ...] | None]) -> None:
    """Send what is put into a queue, None the last. Only this thread may wait for a process that reads nothing."""
    with contextlib.suppress(OSError):  # it has ended: `receive` finds out
        while (what := orders.get()) is not None:
            connection.send(what)
        connection.send(None)


def _receive_all(connection: Connection, said: queue.SimpleQueue[Said | EOFError]) -> None:
    """Put what is sent into a queue, an `EOFError` the last. A process may be stopped in the midst of a message."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            said.put(connection.recv())
    said.put(EOFError())


class _Trainer:
    """The connection to the trainer, for more than one thread."""

    def __init__(self, connection: Connection):
        self._connection, self._sending = connection, threading.Lock()
        self.poll, self.recv = connection.poll, connection.recv

    def send(self, said: Said) -> None:
        with self._sending:
            self._connection.send(said)


def serve(connection: Connection, cluster: Cluster, spec: WorkerSpec, expected: dict[str, str], folder: str) -> None:
    """The process: carry orders to Ray's workers and their events back, until the trainer says or ends.

    Args:
        connection: to the trainer.
        cluster: where.
        spec: what each worker loads.
        expected: facts that a worker's must equal.
        folder: where the trainer puts weights; removed if the trainer is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which lets the step end
    paths, parent = [spec.source] if os.path.isabs(spec.source) else [], os.getppid()
    engines = [spec.engine] if cluster.python is not None else []  # the driver has looked in its own Python
    trainer = _Trainer(connection)
    ray, workers = RayCluster(cluster, Question(paths, cluster.python, engines), trainer.send), None
    threading.Thread(target=_beat, args=(trainer, ray), name="beat", daemon=True).start()
    try:
        ray.connect()
        workers = RayWorkers(cluster, spec, expected, trainer.send)
        trainer.send([])
        kept: dict[int, Any] = {}
        while True:
            while trainer.poll():
                if (order := trainer.recv()) is None:
                    return
                _obey(order, workers, kept)
            if events := workers.receive(POLL_SECONDS):
                trainer.send(events)
    except Exception as error:  # of Ray: it is told, and Ray started again. Or the trainer has ended
        with contextlib.suppress(OSError):
            trainer.send(error if isinstance(error, RethinkError) else EngineFailure(short(error)))
            time.sleep(0.5)
    finally:
        if os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)
        if workers is not None:
            workers.close()
        ray.disconnect()


def _beat(trainer: _Trainer, ray: RayCluster) -> None:
    """Tell the trainer that this process lives, or that Ray is ill: whoever calls Ray may then wait for long."""
    with contextlib.suppress(OSError):  # the trainer has ended
        while (cause := ray.ill()) is None:
            trainer.send(None)
            time.sleep(BEAT_SECONDS)
        trainer.send(EngineFailure(cause))


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
            if not os.path.exists(path):
                return  # it was meant for the process before this one; the trainer stores it again
            data = np.memmap(path, dtype=np.uint8, mode="r")
            arrays = {}
            for name, (start, kind, shape) in layout.items():
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                arrays[name] = data[start : start + size].view(kind).reshape(shape)
            kept[number] = _put({name: np.asarray(array) for name, array in arrays.items()})
            os.unlink(path)
            for old in sorted(kept)[:-STORED]:
                del kept[old]


def _put(arrays: dict[str, Any]) -> Any:
    ray = ray_module()
    try:
        return ray.put(arrays)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise StoreFull(
            f"Ray's object store on this machine has no room for the weights ({short(error)}). Free memory (/dev/shm) "
            "or disk here; the run can be resumed"
        ) from error


def folder_for(weights: int) -> str:
    """Where weights of so many bytes are handed over: in memory, else on disk.

    Raises:
        UsageError: there is no room for them.
    """
    free = {}
    for folder in ("/dev/shm", tempfile.gettempdir()):
        if os.access(folder, os.W_OK):
            free[folder] = shutil.disk_usage(folder).free
            if free[folder] > 2 * weights:  # Ray makes a copy
                return folder
    there = (
        ", ".join(f"{folder} has {size_text(size)} free" for folder, size in free.items()) or "no folder is writable"
    )
    raise UsageError(
        f"weights of {size_text(weights)} are handed to workers through a file and a copy of it, and {there}. Free "
        "some, or set TMPDIR to a larger folder"
    )
