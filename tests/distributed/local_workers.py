"""Workers in this process: the real protocol, engines and weights, and a transport that a test can hold up."""

from __future__ import annotations

import contextvars
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from rethink.distributed.pool import Timing
from rethink.distributed.pool_engine import PoolEngine
from rethink.distributed.protocol import Hello, Order, Task
from rethink.distributed.rollout_worker import EngineDrawer
from rethink.distributed.transport import STORED, Event, Joined, Lost, Reported
from rethink.distributed.watch import Onlooker
from rethink.distributed.worker_state import Worker
from rethink.model.loading import load_checkpoint
from rethink.rollout.engines import Spreading, open_engine, spread_over

Held = Callable[[Task], bool]


class LocalWorkers:
    """See `transport.Transport`. `held`: tasks that are not drawn for now."""

    def __init__(self, spreading: Spreading, workers: int, held: Held):
        self.busy: set[str] = set()
        self.stores = 1
        self.held = held
        self.restart = False
        """Set by a test: everything is lost and started again, as when Ray ends."""
        self.workers: dict[str, Worker] = {}
        self._arrays: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
        self._stored = 0
        self._events: list[Event] = []
        for number in range(workers):
            model, engine = load_checkpoint(spreading.opened.checkpoint.source), spreading.opened.name
            make = partial(open_engine, model, spreading.placement, engine=engine, training=True)
            opened = contextvars.Context().run(make)  # of its own: here it would be spread again
            drawer = EngineDrawer(opened, self._arrays.__getitem__, capacity=3)
            self.workers[f"w{number}"] = Worker(drawer)
            self._events.append(Joined(Hello(f"w{number}", {})))

    def receive(self, seconds: float) -> list[Event]:
        """A few tokens of each worker."""
        if self.restart:
            self._restart()
        worked = False
        for name, worker in self.workers.items():
            if not any(self.held(task) for task in worker._waiting) and worker.step():
                worked = True
                self._events.append(Reported(name, worker.report()))
        if not worked:
            time.sleep(seconds / 10)
        events, self._events = self._events, []
        return events

    def send(self, name: str, order: Order) -> None:
        """See `Transport.send`."""
        if name in self.workers:
            there = tuple(weights for weights in order.weights if weights.source in self._arrays)
            self.workers[name].carry_out(dataclasses.replace(order, weights=there))
            self._events.append(Reported(name, self.workers[name].report()))

    def kill(self, name: str, why: str) -> None:
        """See `Transport.kill`; no other is started."""
        del self.workers[name]
        self._events.append(Lost(name))

    def store(self, arrays: dict[str, np.ndarray[Any, Any]]) -> int:
        """See `Transport.store`."""
        self._stored += 1
        self._arrays[self._stored] = {name: array.copy() for name, array in arrays.items()}
        for old in sorted(self._arrays)[:-STORED]:
            del self._arrays[old]
        return self._stored

    def _restart(self) -> None:
        self.restart = False
        self._arrays.clear()
        self.stores += 1
        for name in list(self.workers):
            drawer = self.workers.pop(name).drawer
            assert isinstance(drawer, EngineDrawer)
            drawer.engine.abandon()
            self.workers[f"{name}'"] = Worker(drawer)
            self._events += [Lost(name), Joined(Hello(f"{name}'", {}))]

    def close(self) -> None:
        """See `Transport.close`."""


@contextmanager
def local_workers(workers: int = 2, held: Held = lambda task: False) -> Iterator[list[LocalWorkers]]:
    """Within, engines that are opened draw on workers of this process; gives their transports."""
    opened: list[LocalWorkers] = []

    def spread(spreading: Spreading) -> PoolEngine:
        transport = LocalWorkers(spreading, workers, held)
        opened.append(transport)
        exact = spreading.opened.engine.exact_logprobs
        engine = PoolEngine(transport, Timing(), spreading.opened, Onlooker(print), exact_logprobs=exact)
        engine.publish(spreading.opened.model, 0)
        return engine

    with spread_over(spread):
        yield opened
