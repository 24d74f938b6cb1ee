"""The pool as a rollout engine: whoever samples need not know that workers do.

    submit, publish ─► Pool ◄─► (a thread) ◄─► transport ◄─► workers
    step ◄───────────── completions

A thread carries messages all the time, so that workers are watched, and draw, while the trainer computes.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rethink.distributed import weights as weights_of
from rethink.distributed.clock import RunningClock
from rethink.distributed.pool import Pool, Timing
from rethink.distributed.protocol import Weights
from rethink.distributed.transport import STORED, Joined, Lost, Reported, Stacks, Transport
from rethink.distributed.watch import Onlooker, Watch, place_of
from rethink.errors import EngineFailure
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Opened
from rethink.types import GenerationRequest

POLL_SECONDS = 0.02
WAIT_SECONDS = 0.5
SHOW_SECONDS = 1.0
STOOD_STILL = 5.0
"""Seconds that this process was stopped for, from which on it is said."""


class PoolEngine(RolloutEngine):
    """`RolloutEngine` whose samples are drawn by workers. One thread at a time samples; another may publish meanwhile.

    Args:
        transport: started; it is this engine's from now on.
        timing: deadlines.
        opened: the model that is published, and an engine of the workers' kind on it.
        onlooker: told who is waited for and who is lost.
        exact_logprobs: whether their log-probabilities equal the trainer's to the bit.
    """

    overlaps = True

    def __init__(
        self, transport: Transport, timing: Timing, opened: Opened, onlooker: Onlooker, *, exact_logprobs: bool
    ):
        super().__init__()
        self.model, self.exact_logprobs = opened.model, exact_logprobs
        self.context, self.dtype = opened.engine.context, opened.engine.dtype
        self.pool = Pool(uuid.uuid4().hex, timing)
        self._transport, self._onlooker = transport, onlooker
        self._clock = RunningClock()
        self._watch, self._shown = Watch(), float("-inf")
        self._asked: set[tuple[str, float]] = set()
        """Who was asked what it does, and when it had come furthest."""
        self._told: set[tuple[str, float]] = set()
        """Who was named as waited for, and since when."""
        self._counted: Counter[str] = Counter()
        self._sync_seconds = 0.0
        self._keys: dict[int, int] = {}
        """By task: the request's key."""
        self._retained: Mapping[int, Mapping[str, Any]] = {}
        self._stored: dict[int, int] = {}
        """Versions that workers can load, the newest last, and the count of stores that each is in."""
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._carry, name="rollout pool", daemon=True)
        self._thread.start()

    def metrics(self) -> dict[str, float]:
        """See `RolloutEngine.metrics`."""
        with self._changed:
            now, workers, watched = Counter(self.pool.counts), len(self.pool.workers), self._watch.metrics()
            seconds, self._sync_seconds = self._sync_seconds, 0.0
        since, self._counted = now - self._counted, now
        return {
            "cluster/workers": workers,
            "cluster/lost": since["lost_workers"],
            "cluster/asked_again": since["asked_again"],
            "cluster/moved": since["moved"],
            "cluster/restarts": since["restarts"],
            **watched,
            "cluster/sync": seconds,
        }

    def publish(self, weights: Any, version: int) -> None:
        """See `RolloutEngine.publish`; requests that name a retained version may be under way."""
        if weights is not None and weights is not self.model:
            raise EngineFailure("this engine samples from the weights that it was opened with, and cannot take others")
        self.version = version

    def retain(self, versions: Mapping[int, Mapping[str, Any]]) -> None:
        """See `RolloutEngine.retain`."""
        self._retained = dict(versions)

    def close(self) -> None:
        """End the workers; whoever samples is told so."""
        with self._changed:
            self._closing = True
            self._failure = self._failure or EngineFailure("the rollout workers were closed")
            self._changed.notify_all()
        self._thread.join(timeout=30)
        self._transport.close()

    def _step(self) -> bool:
        if not self._under_way:
            return False
        for version in {self._named(request) for _, request in self._queue} | self._wanted():
            if self._stored.get(version) != self._transport.stores:
                self._store(version)  # it is new; or the store was lost
        with self._changed:
            while self._queue:
                key, request = self._queue.popleft()
                sent = dataclasses.replace(request, version=self._named(request), on_token=None)
                self._keys[self.pool.submit(sent)] = key
            self._changed.wait_for(lambda: self.pool.arrived or self._failure is not None, WAIT_SECONDS)
            if self._failure is not None:
                raise self._failure
            taken = self.pool.take()
        for task, sample, completion in taken:
            wanted = self._keys.get(task)
            if wanted is not None and wanted in self._under_way:
                self._finish(wanted, sample, completion)
                if wanted not in self._under_way:
                    self._keys.pop(task, None)
        return bool(self._under_way)

    def _has(self, version: int) -> bool:
        return version == self.version or version in self._retained

    def _named(self, request: GenerationRequest) -> int:
        version = self.version if request.version is None else request.version
        assert version is not None
        return version

    def _wanted(self) -> set[int]:
        with self._changed:
            return {version for version in self.pool.versions if version is not None}

    def _store(self, version: int) -> None:
        """Put weights where workers find them.

        Raises:
            EngineFailure: there is no room for them, or they are gone.
        """
        started, stores, retained = time.monotonic(), self._transport.stores, self._retained.get(version)
        if retained is None and version != self.version:
            raise EngineFailure(f"version {version} of the weights is wanted, and no longer there")
        arrays = weights_of.packed(self.model.named_parameters() if retained is None else retained.items())
        try:
            source = self._transport.store(arrays)
        except OSError as error:
            raise EngineFailure(
                f"the weights cannot be handed to workers: {error}. Free space there; the run can be resumed"
            ) from error
        self._stored.pop(version, None)
        self._stored[version] = stores
        for old in list(self._stored)[:-STORED]:
            del self._stored[old]
        with self._changed:
            self.pool.publish(Weights(version, source, weights_of.checksum(arrays)), keep=self._stored)
            self._sync_seconds += time.monotonic() - started

    def _remove(self, key: int) -> None:
        with self._changed:
            for old in [task for task, named in self._keys.items() if named == key]:
                del self._keys[old]
                self.pool.cancel(old)

    def _drop(self) -> None:
        with self._changed:
            for task in self._keys:
                self.pool.cancel(task)
            self._keys.clear()

    def _carry(self) -> None:
        """Carry messages until the engine is closed; a failure is raised where samples are waited for."""
        try:
            while not self._closing:
                self._carry_once()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _carry_once(self) -> None:
        events = self._transport.receive(POLL_SECONDS)
        before, now = self._clock.left_out, self._clock.now()
        if (still := self._clock.left_out - before) > STOOD_STILL:
            self._onlooker.note(f"The run stood still for {still:.0f} s: its process was stopped, or the machine was.")
        with self._changed:
            for event in events:
                match event:
                    case Joined(hello):
                        self.pool.joined(hello, now)
                    case Reported(name, report):
                        self.pool.reported(name, report, now)
                    case Lost(name, cause, host):
                        self._lost(name, cause, host)
                        self.pool.lost(name, cause)
                    case Stacks(name, text):
                        self._told_stacks(name, text)
            hosts = {name: worker.hello.facts.get("host", "") for name, worker in self.pool.workers.items()}
            orders, hung = self.pool.poll(now, self._transport.busy)
            if self.pool.arrived:
                self._changed.notify_all()
            self._watch.look(self.pool, now)
        self._look_after(now)
        for name in hung:
            cause = f"it did not answer for {self.pool.timing.hung:.0f} s"
            self._lost(name, cause, hosts[name])
            self._transport.kill(name, cause)
        for name, order in orders:
            self._transport.send(name, order)

    def _look_after(self, now: float) -> None:
        """Name who is waited for, ask who is late what it does, and show all workers now and then."""
        with self._changed:
            waits = self.pool.waits(now)
            stalled = {(name, self.pool.workers[name].progressed) for name in self.pool.stalled(now)}
            due = now - self._shown >= SHOW_SECONDS
            seen = self._watch.seen(self.pool, now) if due else []
        for wait in waits:
            if (wait.who, wait.since) not in self._told and now - wait.since > 2 * self.pool.timing.late:
                self._told.add((wait.who, wait.since))
                self._onlooker.note(f"Waiting for {wait.who} ({wait.what}), for {now - wait.since:.0f} s.")
        for name, _ in stalled - self._asked:
            self._transport.ask_stacks(name)
        self._asked |= stalled
        if due:
            self._shown = now
            self._onlooker.show(seen)

    def _told_stacks(self, name: str, text: str | None) -> None:
        self._onlooker.record({"event": "late", "time": time.time(), "worker": name, "stacks": text})
        if text is None:
            self._onlooker.note(f"{name} is late and does not answer, so that it cannot be said what it does.")
        else:
            self._onlooker.note(f"{name} is late: it is {place_of(text)}.")

    def _lost(self, name: str, cause: str, host: str) -> None:
        self._onlooker.record({"event": "lost", "time": time.time(), "worker": name, "host": host, "cause": cause})
