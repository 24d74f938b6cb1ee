"""The worker's side of the pool: carries out orders on an engine, and reports. No clock, no network, no threads.

order ─► waiting ─► (load the version) ─► running ─► done ─► report, until a receipt comes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from rethink.distributed.protocol import Done, Key, Order, Report, Task, Weights
from rethink.errors import RethinkError
from rethink.types import Completion


class Drawer(Protocol):
    """What a worker needs of an engine: tasks enter and leave while others are drawn."""

    capacity: int
    """Samples drawn at once."""

    def load(self, weights: Weights) -> None:
        """Take over a version of the weights; nothing is being drawn.

        Raises:
            EngineFailure: they cannot be read, or their checksum is another.
        """
        ...

    def start(self, task: Task) -> None:
        """Begin a task's samples.

        Raises:
            UsageError: it cannot be drawn.
        """
        ...

    def cancel(self, task: Task) -> None:
        """Forget a task that was started; what of it still runs ends."""
        ...

    def step(self) -> list[tuple[Key, Completion]]:
        """Draw a token for each running sample; returns those that ended.

        Raises:
            EngineFailure: generation broke.
        """
        ...


class Worker:
    """What a worker holds: tasks, results without receipt, the version it has loaded."""

    def __init__(self, drawer: Drawer):
        self.drawer = drawer
        self.version: int | None = None
        self.tokens = 0
        """Drawn so far; `finished`: samples that ended so far."""
        self.finished = 0
        self._session, self._number = "", 0
        self._weights: dict[int, Weights] = {}
        self._waiting: deque[Task] = deque()
        self._running: dict[tuple[int, ...], Task] = {}
        """By `Task.part`."""
        self._open: set[Key] = set()
        """Samples of running tasks that have neither ended nor been cancelled."""
        self._done: dict[Key, Done] = {}
        self._refused: dict[int, str] = {}

    @property
    def busy(self) -> bool:
        """Whether a step would do something."""
        return bool(self._running) or any(
            task.request.version in (self.version, *self._weights) for task in self._waiting
        )

    def carry_out(self, order: Order) -> None:
        """Do what an order says; one that is not newer than the last changes nothing."""
        if order.session != self._session:
            self._begin_anew(order.session)
        if order.number <= self._number:
            return
        self._number = order.number
        self._weights = {weights.version: weights for weights in order.weights}
        for key in order.receipts:
            self._done.pop(key, None)
        self._drop_all_but(order.keep)
        known = self._open | {key for task in self._waiting for key in task.keys} | set(self._done)
        for task in order.tasks:
            fresh = tuple(sample for sample in task.samples if (task.id, sample) not in known)
            if fresh:
                self._waiting.append(Task(task.id, task.request, fresh))

    def step(self) -> bool:
        """Start what there is room for, and draw one token of each running sample. False: there is nothing to do.

        Raises:
            EngineFailure: weights cannot be loaded.
        """
        self._start()
        if not self._running:
            return False
        self.tokens += len(self._open)
        try:
            ended = self.drawer.step()
        except RethinkError as error:
            self._refuse(self._running.values(), error)
            return True
        for key, completion in ended:
            if key in self._open:
                self._open.discard(key)
                self._done[key] = Done(key, completion)
                self.finished += 1
        self._forget_ended()
        return True

    def report(self) -> Report:
        """All that it has."""
        return Report(
            session=self._session,
            number=self._number,
            version=self.version,
            running=frozenset(self._open),
            waiting=frozenset(key for task in self._waiting for key in task.keys),
            done=tuple(self._done.values()),
            tokens=self.tokens,
            refused=dict(self._refused),
        )

    def _begin_anew(self, session: str) -> None:
        self._drop_all_but(frozenset())
        self._done.clear()
        self._refused.clear()
        self.version = None  # another driver's versions are others, though they have the same numbers
        self._session, self._number = session, 0

    def _drop_all_but(self, keep: frozenset[Key]) -> None:
        self._open &= keep
        self._forget_ended()
        kept = [(task, tuple(s for s in task.samples if (task.id, s) in keep)) for task in self._waiting]
        self._waiting = deque(Task(t.id, t.request, samples) for t, samples in kept if samples)
        self._refused = {task: why for task, why in self._refused.items() if any(key[0] == task for key in keep)}

    def _forget_ended(self) -> None:
        """End running parts of which no sample is open any more. (One that is partly wanted is drawn to its end.)"""
        for name, task in list(self._running.items()):
            if self._open.isdisjoint(task.keys):
                self.drawer.cancel(task)
                del self._running[name]

    def _start(self) -> None:
        while self._waiting:
            task = self._waiting[0]
            if task.request.version != self.version:
                weights = self._weights.get(-1 if task.request.version is None else task.request.version)
                if self._running or weights is None:
                    return
                self.version = None  # until they are whole
                self.drawer.load(weights)
                self.version = weights.version
            if self._open and len(self._open) + len(task.samples) > self.drawer.capacity:
                return
            self._waiting.popleft()
            try:
                self.drawer.start(task)
            except RethinkError as error:
                self._refuse([task], error)
                continue
            self._running[task.part] = task
            self._open.update(task.keys)

    def _refuse(self, tasks: Iterable[Task], error: RethinkError) -> None:
        for task in list(tasks):
            self._refused[task.id] = str(error)
            self._open.difference_update(task.keys)
        self._forget_ended()
