"""Workers as Ray actors: started, called, and replaced where they end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.protocol import Hello, Order, Report
from rethink.distributed.rollout_worker import RolloutWorker, WorkerSpec
from rethink.distributed.transport import Event, Joined, Lost, Reported, Stacks, WorkersRefused
from rethink.errors import EngineFailure
from rethink.machine.limits import oom_kills

EXCHANGE_SECONDS = 0.2
"""How long a worker keeps an exchange open when it has nothing to tell."""
FAILED_STARTS = 3
"""Starts in a row, of all workers together, that may fail; then the run stops."""
LONGEST_PAUSE = 30.0
STACKS_SECONDS = 3.0
"""How long a worker may take to say what its threads do."""
DIED, NODE_DIED = "its worker process has died", "its node has died"
"""What Ray says of an actor that neither it nor the actor has ended."""
NAME = "RETHINK_WORKER"
"""Environment variable that holds a worker's name."""


@dataclass(slots=True)
class _Slot:
    """A place for a worker, and who has it."""

    index: int
    starts: int = 0
    name: str = ""
    actor: Any = None
    started: float = 0.0
    again_at: float | None = 0.0
    """When the next is started; None: there is one."""
    hello: Hello | None = None
    pending: Any = None
    """The call that is under way."""
    stacks: Any = None
    """The call that asks what its threads do, and when it was made."""
    stacks_asked: float = 0.0
    failed: int = 0
    """Starts in a row that failed."""
    refused: bool = False
    """Whether the last that started would draw other completions."""


class RayWorkers:
    """A pool's workers, for the process that uses Ray: see `transport.Transport`, whose names it has.

    Args:
        cluster: the cluster file; Ray is joined.
        spec: what each worker loads.
        expected: facts that a worker's must equal, where the cluster wants the same bits.
        note: told of workers that are lost, and why.
    """

    def __init__(self, cluster: Cluster, spec: WorkerSpec, expected: dict[str, str], note: Callable[[str], None]):
        self.cluster, self.spec, self.expected = cluster, spec, expected
        self.note = note
        self._oom_kills = oom_kills()
        self.slots = [_Slot(index) for index in range(self.cluster.workers)]

    @property
    def busy(self) -> set[str]:
        """See `Transport.busy`."""
        return {slot.name for slot in self.slots if slot.pending is not None}

    def receive(self, seconds: float) -> list[Event]:
        """See `Transport.receive`."""
        ray = ray_module()
        events: list[Event] = []
        now = time.monotonic()
        for slot in self.slots:
            if slot.again_at is not None and now >= slot.again_at:
                self._start_worker(slot)
            elif slot.hello is None and slot.again_at is None and now - slot.started > self.cluster.start_seconds:
                events.append(self._lose(slot, f"it did not start within {self.cluster.start_seconds:.0f} s"))
        events += self._stacks(now)
        pending = {slot.pending: slot for slot in self.slots if slot.pending is not None}
        if not pending:
            time.sleep(seconds)
            return events
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=seconds)
        for call in ready:
            slot = pending[call]
            slot.pending = None
            events.append(self._event(slot, call))
        return events

    def send(self, name: str, order: Order) -> None:
        """See `Transport.send`."""
        for slot in self.slots:
            if slot.name == name and slot.actor is not None and slot.pending is None:
                slot.pending = slot.actor.exchange.remote(order, EXCHANGE_SECONDS)

    def kill(self, name: str, why: str) -> None:
        """See `Transport.kill`."""
        for slot in self.slots:
            if slot.name == name and slot.actor is not None:
                self._lose(slot, why)

    def ask_stacks(self, name: str) -> None:
        """See `Transport.ask_stacks`."""
        for slot in self.slots:
            if slot.name == name and slot.actor is not None and slot.stacks is None:
                slot.stacks, slot.stacks_asked = slot.actor.stacks.remote(), time.monotonic()

    def close(self) -> None:
        """See `Transport.close`."""
        for slot in self.slots:
            self._end(slot)
        self.slots = []

    def _stacks(self, now: float) -> list[Event]:
        """What workers said of their threads; None of those that did not answer in time."""
        ray = ray_module()
        events: list[Event] = []
        for slot in self.slots:
            if slot.stacks is None:
                continue
            if ray.wait([slot.stacks], timeout=0)[0]:
                try:
                    events.append(Stacks(slot.name, ray.get(slot.stacks)))
                except ray.exceptions.RayError:
                    events.append(Stacks(slot.name, None))
            elif now - slot.stacks_asked > STACKS_SECONDS:
                events.append(Stacks(slot.name, None))
            else:
                continue
            slot.stacks = None
        return events

    def _start_worker(self, slot: _Slot) -> None:
        ray = ray_module()
        slot.starts += 1
        slot.name = f"worker-{slot.index}.{slot.starts}"
        slot.started, slot.again_at, slot.hello = time.monotonic(), None, None
        threads = self.cluster.threads
        actor = ray.remote(RolloutWorker).options(
            num_cpus=threads,
            max_concurrency=4,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(threads), NAME: slot.name},
                **({} if self.cluster.python is None else {"py_executable": self.cluster.python}),
            },
        )
        slot.actor = actor.remote(slot.name, self.spec, ray.get)
        slot.pending = slot.actor.hello.remote()

    def _event(self, slot: _Slot, call: Any) -> Event:
        """What a call that ended means."""
        ray = ray_module()
        try:
            said: Hello | Report = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            return self._lose(slot, short(error.cause))
        except ray.exceptions.RayError as error:
            return self._lose(slot, self._cause(slot, error))
        if isinstance(said, Report):
            return Reported(slot.name, said)
        strange = self._differs(said)
        slot.refused = strange is not None
        if strange is not None:
            return self._lose(slot, strange)
        slot.hello, slot.failed = said, 0
        return Joined(said)

    def _cause(self, slot: _Slot, error: Exception) -> str:
        """Why a worker ended, as far as Ray or the system of this machine knows."""
        if NODE_DIED in str(error):
            return "its machine did not answer, or Ray ended there"
        if DIED not in str(error):
            return short(error)
        before, self._oom_kills = self._oom_kills, oom_kills()
        if slot.hello is None or slot.hello.facts.get("host") != socket.gethostname():
            return "its process was killed, for want of memory perhaps, or crashed"
        if self._oom_kills > before:
            return "the system killed a process, this one it seems, because memory was short"
        return "its process was killed, not for want of memory, or crashed"

    def _differs(self, hello: Hello) -> str | None:
        if self.cluster.bits == "any":
            return None
        for fact, value in self.expected.items():
            if hello.facts.get(fact) != value:
                return (
                    f"its completions would differ from those of one process: {fact} is {hello.facts.get(fact)} on "
                    f"{hello.facts.get('host')}, and {value} here. Use machines of one kind, or write `bits: any`"
                )
        return None

    def _lose(self, slot: _Slot, cause: str) -> Lost:
        """Give a worker up, and plan the next.

        Raises:
            EngineFailure: workers do not start at all, or all are refused.
        """
        lost = Lost(slot.name, cause, slot.hello.facts.get("host", "") if slot.hello is not None else "")
        self.note(f"{slot.name} is lost ({cause}); another is started, and its samples are asked again.")
        started = slot.hello is not None
        slot.failed = 0 if started else slot.failed + 1
        self._end(slot)
        slot.again_at = time.monotonic() + min(LONGEST_PAUSE, 0.5 * 2**slot.failed if slot.failed else 0.0)
        alive = any(other.hello is not None for other in self.slots)
        if all(other.refused for other in self.slots):
            raise WorkersRefused(f"all rollout workers are refused. Of the last, {cause}")
        if not alive and sum(other.failed for other in self.slots) >= FAILED_STARTS * len(self.slots):
            raise EngineFailure(f"rollout workers do not start. The last cause: {cause}")
        return lost

    def _end(self, slot: _Slot) -> None:
        ray = ray_module()
        if slot.actor is not None:
            with contextlib.suppress(Exception):
                ray.kill(slot.actor, no_restart=True)
        if slot.hello is not None:
            kill_here(slot.hello)
        slot.actor = slot.pending = slot.hello = slot.stacks = None


def kill_here(hello: Hello) -> None:
    """Kill a worker's process on this machine: one that is stopped does not hear Ray."""
    if hello.facts.get("host") != socket.gethostname():
        return
    process = Path("/proc") / hello.facts.get("pid", "")
    with contextlib.suppress(OSError, ValueError):
        if f"{NAME}={hello.name}".encode() in (process / "environ").read_bytes().split(b"\0"):
            os.kill(int(process.name), signal.SIGKILL)


def short(error: BaseException) -> str:
    """One line of an error; of one about an actor, which begins with who that was, the line that says why."""
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("\t")] or [""]
    said = lines[1] if len(lines) > 1 and lines[0].startswith("The actor died") else lines[0]
    return f"{type(error).__name__}: {said}"[:300]
