"""The driver's side of the pool: which worker draws what, and what is asked again. No clock, no network, no threads.

    submit ─► queue ─► assign (even shares) ─► orders ─► workers ─► reports ─► deliver
                 ▲                                          │
                 └── lost, hung, or of another version ◄────┘

A completion is a pure function of (version, prompt, seed, parameters), so a sample is simply asked again, anywhere, and
the result is the same to the bit. The caller brings the time, carries orders out and reports in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from rethink.distributed.protocol import Hello, Key, Order, Report, Task, Weights
from rethink.errors import EngineFailure
from rethink.types import Completion, GenerationRequest


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines in seconds: every wait has one."""

    beat: float = 0.2
    """An order goes to each worker at least this often."""
    late: float = 5.0
    """A worker that has not reported for so long gets no new work, and is named."""
    hung: float = 10.0
    """A worker that has not reported for so long is given up: its samples are asked again elsewhere."""
    stuck: float = 60.0
    """The same for one that reports, but draws no token of what it has."""
    loading: float = 120.0
    """The same while it loads weights."""
    without: float = 120.0
    """The run stops, resumably, where there has been no worker for so long."""
    attempts: int = 5
    """Workers that may be lost while they hold a sample; then it is taken to be what kills them."""


@dataclass(slots=True)
class WorkerState:
    """What the driver knows of a worker."""

    hello: Hello
    heard: float
    """When it last reported."""
    progressed: float
    """When it last drew a token, loaded weights, or had nothing to do."""
    assigned: set[Key] = field(default_factory=set)
    reported: int = 0
    """Newest order that it has carried out."""
    held: frozenset[Key] = frozenset()
    """Samples that it has, by its newest report; `waiting`: those that it has not started."""
    waiting: frozenset[Key] = frozenset()
    receipts: frozenset[Key] = frozenset()
    """Results in its newest report."""
    number: int = 0
    """Of the newest order."""
    ordered: float = float("-inf")
    """When it was given."""
    changed: bool = True
    """Whether the next order says something new."""
    version: int | None = None
    tokens: int = 0
    done: int = 0
    """Samples that were delivered from it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody who is waited for."""

    who: str
    what: str
    since: float


@dataclass(slots=True)
class _Job:
    """A request and what is still missing of it."""

    request: GenerationRequest
    missing: set[int]
    losses: Counter[int] = field(default_factory=Counter)
    """By sample: workers that were lost with it."""


class Pool:
    """Requests that are being drawn by workers that come and go.

    Args:
        session: unique to this start of the driver.
        timing: deadlines.
    """

    def __init__(self, session: str, timing: Timing):
        self.session, self.timing = session, timing
        self.workers: dict[str, WorkerState] = {}
        self.weights: dict[int, Weights] = {}
        self.counts: Counter[str] = Counter()
        """Events: `lost_workers`; samples that were `asked_again`, `moved` to an idle worker, …"""
        self._jobs: dict[int, _Job] = {}
        self._queue: deque[Key] = deque()
        self._delivered: list[tuple[int, int, Completion]] = []
        self._next = 1
        self._alone_since: float | None = None

    # What the run asks for

    def publish(self, weights: Weights, keep: Iterable[int] = ()) -> None:
        """Offer a version of the weights; of the earlier ones only those in `keep`, or still needed, are retained."""
        self.weights[weights.version] = weights
        needed = self.versions | set(keep) | {weights.version}
        self.weights = {version: w for version, w in self.weights.items() if version in needed}

    def submit(self, request: GenerationRequest) -> int:
        """Ask for the completions of a request, whose version is published; returns the task's number.

        Raises:
            EngineFailure: the version was never published, or is no longer retained.
        """
        if request.version not in self.weights:
            raise EngineFailure(
                f"version {request.version} of the weights is not published; there are {sorted(self.weights)}"
            )
        task, self._next = self._next, self._next + 1
        self._jobs[task] = _Job(request, set(range(request.n)))
        self._queue.extend((task, sample) for sample in range(request.n))
        return task

    def cancel(self, task: int) -> None:
        """Forget a task; nothing more is delivered of it."""
        if self._jobs.pop(task, None) is None:
            return
        self._queue = deque(key for key in self._queue if key[0] != task)
        for worker in self.workers.values():
            self._unassign(worker, {key for key in worker.assigned if key[0] == task})

    def take(self) -> list[tuple[int, int, Completion]]:
        """(task, sample, completion) of all that arrived since the last call: each sample once."""
        delivered, self._delivered = self._delivered, []
        return delivered

    @property
    def arrived(self) -> bool:
        """Whether there is something to take."""
        return bool(self._delivered)

    @property
    def versions(self) -> set[int | None]:
        """Versions that samples are still to be drawn from."""
        return {job.request.version for job in self._jobs.values()}

    @property
    def outstanding(self) -> int:
        """Samples that have not arrived."""
        return sum(len(job.missing) for job in self._jobs.values())

    @property
    def unstarted(self) -> int:
        """Samples that no worker draws yet."""
        return len(self._queue) + sum(len(w.assigned - (w.held - w.waiting)) for w in self.workers.values())

    # What happens to workers

    def joined(self, hello: Hello, now: float) -> None:
        """A worker that may draw from now on."""
        self.workers[hello.name] = WorkerState(hello, heard=now, progressed=now)
        self.counts["restarts"] += self.counts["restarts"] < self.counts["lost_workers"]

    def lost(self, name: str, cause: str = "it did not answer") -> None:
        """A worker is gone: what it held is asked again.

        Raises:
            EngineFailure: a sample was held by too many workers that were lost.
        """
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        self.counts["lost_workers"] += 1
        self._ask_again(worker.assigned)
        for key in worker.assigned:
            self._blame(key, f"{name} ({cause})")

    def reported(self, name: str, report: Report, now: float) -> None:
        """Take in what a worker says.

        Raises:
            EngineFailure: it refuses a task: the task is at fault, and every worker would.
        """
        worker = self.workers.get(name)
        if worker is None or report.session != self.session or report.number < worker.reported:
            return  # given up already, of another driver's time, or overtaken by a newer report
        if (report.version, report.tokens) != (worker.version, worker.tokens) or not report.held:
            worker.progressed = now
        worker.heard, worker.reported = now, report.number
        worker.version, worker.tokens = report.version, report.tokens
        if report.refused:
            task, why = next(iter(sorted(report.refused.items())))
            raise EngineFailure(f"worker {name} cannot draw request {task}: {why}")
        worker.held, worker.waiting = report.held, report.waiting
        arrived = frozenset(done.key for done in report.done)
        worker.changed |= bool(arrived - worker.receipts)
        worker.receipts = arrived
        for done in report.done:
            self._arrived(worker, done.key, done.completion)

    # What is to be sent

    def poll(self, now: float, busy: Container[str] = ()) -> tuple[list[tuple[str, Order]], list[str]]:
        """Orders that are due, by worker; and workers to give up, which are no longer of the pool.

        Args:
            now: seconds on the caller's clock.
            busy: workers that take no order now.

        Raises:
            EngineFailure: there has been no worker for too long.
        """
        hung = [name for name, worker in self.workers.items() if now > self._deadline(worker)]
        for name in hung:
            self.lost(name)
        self._check_alone(now)
        self._assign(now)
        orders = []
        for name, worker in self.workers.items():
            if name not in busy and (worker.changed or now - worker.ordered >= self.timing.beat):
                orders.append((name, self._order(worker, now)))
        return orders, hung

    def waits(self, now: float) -> list[Wait]:
        """Who is waited for, for what and since when: the latest to be heard first."""
        found = [
            Wait(name, _what(worker), worker.heard)
            for name, worker in self.workers.items()
            if worker.assigned and now - worker.heard > self.timing.late
        ]
        if self._alone_since is not None:
            found.append(Wait("any rollout worker", "to join", self._alone_since))
        return sorted(found, key=lambda wait: wait.since)

    def stalled(self, now: float) -> list[str]:
        """Workers with samples that are late to report, or have come no further for half the time that they may."""
        return [
            name
            for name, worker in self.workers.items()
            if worker.assigned
            and (now - worker.heard > self.timing.late or now - worker.progressed > self._patience(worker) / 2)
        ]

    # Inside

    def _deadline(self, worker: WorkerState) -> float:
        """When the worker is given up unless it reports, or comes further."""
        by_report = worker.heard + self.timing.hung
        return min(by_report, worker.progressed + self._patience(worker)) if worker.held else by_report

    def _patience(self, worker: WorkerState) -> float:
        """How long a worker that reports may take to come further."""
        loads = any(self._version(key) not in (worker.version, None) for key in worker.held)
        return self.timing.loading if loads else self.timing.stuck

    def _version(self, key: Key) -> int | None:
        job = self._jobs.get(key[0])
        return None if job is None else job.request.version

    def _check_alone(self, now: float) -> None:
        if self.workers or not self._jobs:
            self._alone_since = None
            return
        self._alone_since = now if self._alone_since is None else self._alone_since
        if now - self._alone_since > self.timing.without:
            raise EngineFailure(
                f"there has been no rollout worker for {self.timing.without:.0f} s, and {self.outstanding} samples are "
                "waited for. The run can be resumed: see why the workers ended, then run the same command with --resume"
            )

    def _assign(self, now: float) -> None:
        """Give queued samples to workers, in even shares; then let idle ones take what others have not started."""
        able = [worker for worker in self.workers.values() if now - worker.heard <= self.timing.late]
        if not able:
            return
        total = len(self._queue) + sum(len(worker.assigned) for worker in able)
        share = -(-total // len(able))
        for worker in sorted(able, key=lambda w: len(w.assigned)):
            while self._queue and len(worker.assigned) < share:
                self._give(worker, self._queue.popleft())
        if not self._queue:
            self._move(able)

    def _move(self, able: Sequence[WorkerState]) -> None:
        """Give an idle worker half of what the busiest one has not started.

        Only what waits behind running samples is moved: a worker that runs nothing is about to start what it has, and
        with many idle workers a sample could otherwise be moved for ever.
        """
        for idle in able:
            if idle.assigned:
                continue
            busiest = max(able, key=lambda w: (len(_movable(w)), w.hello.name))
            movable = sorted(_movable(busiest))
            half = movable[len(movable) // 2 :]
            self.counts["moved"] += len(half)
            self._unassign(busiest, set(half))
            for key in half:
                self._give(idle, key)

    def _give(self, worker: WorkerState, key: Key) -> None:
        worker.assigned.add(key)
        worker.changed = True

    def _unassign(self, worker: WorkerState, keys: set[Key]) -> None:
        if keys & worker.assigned:
            worker.assigned -= keys
            worker.changed = True

    def _arrived(self, worker: WorkerState, key: Key, completion: Completion) -> None:
        job = self._jobs.get(key[0])
        mine = key in worker.assigned
        self._unassign(worker, {key})
        if job is None or key[1] not in job.missing:
            self.counts["doubled"] += mine
            return
        if completion.version != job.request.version:
            self.counts["wrong_version"] += 1
            if mine:
                self._ask_again({key})
            return
        job.missing.discard(key[1])
        worker.done += 1
        self._delivered.append((*key, completion))
        for other in self.workers.values():  # it may have been asked again meanwhile
            self._unassign(other, {key})
        if key in self._queue:
            self._queue.remove(key)
        if not job.missing:
            del self._jobs[key[0]]

    def _ask_again(self, keys: Iterable[Key]) -> None:
        wanted = sorted(key for key in keys if key[0] in self._jobs and key[1] in self._jobs[key[0]].missing)
        self.counts["asked_again"] += len(wanted)
        self._queue.extendleft(reversed(wanted))

    def _blame(self, key: Key, whom: str) -> None:
        job = self._jobs.get(key[0])
        if job is None:
            return
        job.losses[key[1]] += 1
        if job.losses[key[1]] >= self.timing.attempts:
            raise EngineFailure(
                f"sample {key[1]} of request {key[0]} was held by {job.losses[key[1]]} workers that were lost, at last "
                f"by {whom}. Either it ends them (memory, for example), or workers do not last. Lower "
                "rollout.kv_budget_gb or rollout.max_new_tokens, or see the workers' logs; the run can be resumed"
            )

    def _order(self, worker: WorkerState, now: float) -> Order:
        worker.number += 1
        worker.ordered, worker.changed = now, False
        fresh: dict[int, list[int]] = {}
        for task, sample in sorted(worker.assigned - worker.held):
            fresh.setdefault(task, []).append(sample)
        jobs = self._jobs
        tasks = tuple(Task(t, jobs[t].request, tuple(samples)) for t, samples in fresh.items())
        versions = {jobs[task].request.version for task, _ in worker.assigned}
        weights = tuple(weights for version, weights in sorted(self.weights.items()) if version in versions)
        return Order(self.session, worker.number, weights, tasks, frozenset(worker.assigned), worker.receipts)


def _movable(worker: WorkerState) -> frozenset[Key]:
    return worker.waiting & worker.assigned if worker.held - worker.waiting else frozenset()


def _what(worker: WorkerState) -> str:
    if worker.version is None:
        return f"its first weights, and {len(worker.assigned)} samples"
    return f"{len(worker.assigned)} samples"
