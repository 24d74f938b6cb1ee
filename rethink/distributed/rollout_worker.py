"""A worker's process: loads the model, then draws what it is ordered to, in a thread of its own.

The thread alone touches the engine; `exchange` hands an order in and the newest report out. So a worker answers while
it computes, and one that does not answer is in trouble.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rethink.distributed.protocol import Hello, Key, Order, Report, Task, Weights
from rethink.distributed.worker_state import Worker
from rethink.machine.placement import Placement
from rethink.types import Completion

CAPACITY = 128
"""Samples that a worker draws at once, where the recipe sets no other."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker of a run loads."""

    source: str
    """The model, as the recipe calls it."""
    revision: str | None
    trust_remote_code: bool
    engine: str
    placement: Placement
    max_concurrent: int | None
    capacity: int


class EngineDrawer:
    """A rollout engine as a worker uses it.

    Args:
        opened: the engine and its model.
        fetch: gives the arrays that an order names.
        capacity: samples drawn at once.
    """

    def __init__(self, opened: Any, fetch: Callable[[Any], Any], capacity: int):
        self.engine, self.model, self.capacity = opened.engine, opened.model, capacity
        self._fetch = fetch
        self._keys: dict[tuple[int, ...], int] = {}
        self._next = 0
        self._ended: list[tuple[Key, Completion]] = []

    def load(self, weights: Weights) -> None:
        """See `Drawer.load`."""
        from rethink.distributed.weights import load

        load(self.model, self._fetch(weights.source), weights.checksum)
        self.engine.publish(self.model, weights.version)

    def start(self, task: Task) -> None:
        """See `Drawer.start`."""

        def finish(_: int, sample: int, completion: Completion) -> None:
            self._ended.append(((task.id, task.samples[sample]), completion))

        seeds = tuple(task.request.seeds[sample] for sample in task.samples)
        self._next += 1
        self.engine.submit(self._next, dataclasses.replace(task.request, seeds=seeds), finish)
        self._keys[task.part] = self._next

    def cancel(self, task: Task) -> None:
        """See `Drawer.cancel`."""
        self.engine.cancel(self._keys.pop(task.part))

    def step(self) -> list[tuple[Key, Completion]]:
        """See `Drawer.step`."""
        self.engine.step()
        ended, self._ended = self._ended, []
        return ended


def facts(opened: Any) -> dict[str, str]:
    """What decides the bits of a completion, and a probe of them: completions of the model as it was loaded. Of an
    engine whose numbers are its own, which no other worker repeats, only what must be the same for it to serve.
    """
    import torch

    from rethink import __version__
    from rethink.kernels.native import library
    from rethink.rollout.engines import is_corrected

    same = {"rethink": __version__, "engine": opened.name, "dtype": opened.engine.dtype}
    if is_corrected(opened.name):
        return same
    return same | {
        "torch": torch.__version__,
        "kernels": library.status().level if opened.engine.exact_logprobs else "torch",
        "processor": platform.machine(),
        "probe": probe(opened),
    }


def probe(opened: Any) -> str:
    """SHA-256 (hex) of two short completions by the model's present weights; of an exact engine also of their
    log-probabilities, which otherwise depend on threads and on what else is drawn.
    """
    import hashlib

    from rethink.types import GenerationRequest, SamplingParams

    request = GenerationRequest(tuple(range(5, 37)), (1, 2), SamplingParams(max_new_tokens=8))
    digest = hashlib.sha256()
    for completion in opened.engine.generate([request])[0]:
        digest.update(completion.token_ids.tobytes())
        if opened.engine.exact_logprobs:
            digest.update(completion.logprobs.tobytes())
    return digest.hexdigest()


class RolloutWorker:
    """The process, as the transport calls it. Its methods are called in threads of their own."""

    def __init__(self, name: str, spec: WorkerSpec, fetch: Callable[[Any], Any]):
        self.name = name
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._hello: Hello | None = None
        self._report: Report | None = None
        self._failure: BaseException | None = None
        threading.Thread(target=self._run, args=(spec, fetch), name="rollout", daemon=True).start()

    def hello(self) -> Hello:
        """What it is, once the model is loaded.

        Raises:
            RethinkError: the model cannot be loaded.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._hello is not None or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            assert self._hello is not None
            return self._hello

    def exchange(self, order: Order, seconds: float) -> Report:
        """Carry out an order, and report: at once where a sample has ended, else after so many seconds.

        Raises:
            RethinkError: the worker has failed.
        """
        self._orders.put(order)

        def worth_telling() -> bool:
            report = self._report
            return self._failure is not None or (
                report is not None
                and report.number >= order.number
                and bool({d.key for d in report.done} - order.receipts)
            )

        with self._changed:
            self._changed.wait_for(worth_telling, seconds)
            if self._failure is not None:
                raise self._failure
            assert self._report is not None
            return self._report

    def stacks(self) -> str:
        """What each of its threads does now, innermost calls first."""
        import faulthandler
        import tempfile

        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read()

    def _run(self, spec: WorkerSpec, fetch: Callable[[Any], Any]) -> None:
        try:
            worker = self._load(spec, fetch)
            while True:
                self._turn(worker)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _load(self, spec: WorkerSpec, fetch: Callable[[Any], Any]) -> Worker:
        from rethink.model.loading import load_checkpoint
        from rethink.rollout.engines import open_engine

        checkpoint = load_checkpoint(spec.source, revision=spec.revision, trust_remote_code=spec.trust_remote_code)
        opened = open_engine(
            checkpoint,
            spec.placement,
            engine=spec.engine,
            max_concurrent=spec.max_concurrent,
            trust_remote_code=spec.trust_remote_code,
            training=True,
        )
        worker = Worker(EngineDrawer(opened, fetch, spec.capacity))
        about = facts(opened) | {"host": socket.gethostname(), "pid": str(os.getpid())}
        with self._changed:
            self._report = worker.report()
            self._hello = Hello(self.name, about)
            self._changed.notify_all()
        return worker

    def _turn(self, worker: Worker) -> None:
        """One step; where there is nothing to do, wait for an order."""
        ordered = False
        while not self._orders.empty() or not (ordered or worker.busy):
            worker.carry_out(self._orders.get())
            ordered = True
        before = worker.finished
        worker.step()
        finished = worker.finished != before
        report = worker.report()
        with self._changed:
            self._report = report
            if ordered or finished:
                self._changed.notify_all()
