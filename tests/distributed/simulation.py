"""A cluster in one thread: driver, workers, network and disk on a virtual clock; one integer draws every fault.

The protocol is the real one (`Pool`, `Worker`); engine, network, trainer and disk are fakes. A completion is a hash of
(weights, prompt, seed), and training hashes the batch into the weights. So a wrong, lost, doubled or stale sample shows
in the last weights.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from rethink.distributed.pool import Pool, Timing
from rethink.distributed.protocol import Hello, Key, Order, Report, Task, Weights
from rethink.distributed.worker_state import Worker
from rethink.errors import EngineFailure, UsageError
from rethink.kinds.grpo.lag import batches_due, policies_needed, sampled_by
from rethink.types import Completion, GenerationRequest, SamplingParams

TIMING = Timing(beat=0.2, late=1.0, hung=3.0, stuck=8.0, loading=10.0, without=1e9, attempts=10**9)
STEP = 0.05
"""Seconds of a decoding step."""
END_OF_FAULTS = 60.0
LAST_MOMENT = 600.0


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Script:
    """What the run is and how much goes wrong; all of it follows from the seed."""

    seed: int
    workers: int
    lag: int
    batches: int
    prompts: int
    samples: int
    loss: float
    """Probability that a message is lost; the same below for others."""
    double: float
    slow: float
    """Probability of a delay of seconds."""
    crashes: float
    """Worker crashes a second, over all of them; `pauses`, `cuts` likewise."""
    pauses: float
    cuts: float
    driver_crashes: float
    broken_load: float
    full_disk: float

    @staticmethod
    def drawn(seed: int) -> Script:
        r = random.Random(seed)

        def rate(most: float) -> float:
            return r.choice([0.0, r.uniform(0, most), most])

        return Script(
            seed=seed,
            workers=r.choice([1, 2, 3, 5, 8, 16, 64]),
            lag=r.choice([0, 0, 1, 2, 3]),
            batches=r.randint(2, 5),
            prompts=r.randint(1, 6),
            samples=r.randint(1, 8),
            loss=rate(0.4),
            double=rate(0.3),
            slow=rate(0.2),
            crashes=rate(0.5),
            pauses=rate(0.3),
            cuts=rate(0.2),
            driver_crashes=rate(0.1),
            broken_load=rate(0.2),
            full_disk=rate(0.2),
        )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now + seconds, self._number, act))

    def run(self, ended: Callable[[], bool], until: float) -> bool:
        while self._events and not ended():
            self.now, _, act = heapq.heappop(self._events)
            if self.now > until:
                return False
            act()
        return ended()


def length_of(request: GenerationRequest, sample: int) -> int:
    return 1 + digest("length", request.prompt_ids, request.seeds[sample]) % 20


def completion_of(weights: int, request: GenerationRequest, sample: int, version: int | None = None) -> Completion:
    token = digest(weights, request.prompt_ids, request.seeds[sample]) % 2**31
    one = np.zeros(1, np.float32)
    return Completion(np.array([token], np.int32), "", one, one, "stop", version=version)


class FakeEngine:
    """A `Drawer` whose completions are hashes."""

    capacity = 6

    def __init__(self, faults: random.Random, script: Script, quiet: Callable[[], bool]):
        self.faults, self.script, self.quiet = faults, script, quiet
        self.weights: int | None = None
        self.version: int | None = None
        self.left: dict[tuple[int, ...], dict[int, int]] = {}
        self.tasks: dict[tuple[int, ...], Task] = {}

    def load(self, weights: Weights) -> None:
        assert not self.tasks, "weights were changed under running samples"
        if not self.quiet() and self.faults.random() < self.script.broken_load:
            raise EngineFailure("checksum")
        self.weights, self.version = weights.source, weights.version

    def start(self, task: Task) -> None:
        if task.request.params.max_new_tokens == 0:
            raise UsageError("no room")
        name = task.part
        self.tasks[name] = task
        self.left[name] = {s: length_of(task.request, s) for s in task.samples}

    def cancel(self, task: Task) -> None:
        name = task.part
        self.tasks.pop(name, None)
        self.left.pop(name, None)

    def step(self) -> list[tuple[Key, Completion]]:
        ended: list[tuple[Key, Completion]] = []
        assert self.weights is not None
        for name, left in self.left.items():
            task = self.tasks[name]
            for sample in list(left):
                left[sample] -= 1
                if not left[sample]:
                    del left[sample]
                    ended.append(((task.id, sample), completion_of(self.weights, task.request, sample, self.version)))
        return ended


@dataclass
class Disk:
    """What outlives the driver."""

    trained: int
    weights: dict[int, int]
    batches: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """By batch: the version that sampled it, and its tokens."""
    log: list[int] = field(default_factory=list)
    """Batches in the order of training."""


def next_weights(weights: int, tokens: tuple[int, ...]) -> int:
    return digest("trained", weights, tokens)


def requests_of(script: Script, batch: int) -> list[GenerationRequest]:
    params = SamplingParams(max_new_tokens=32)
    return [
        GenerationRequest(
            (batch, prompt), tuple(digest(batch, prompt, s) % 2**31 for s in range(script.samples)), params
        )
        for prompt in range(script.prompts)
    ]


def expected(script: Script) -> int:
    """The weights that one process ends with."""
    weights = {0: script.seed}
    for batch in range(script.batches):
        by = weights[sampled_by(batch, script.lag)]
        tokens = [
            int(completion_of(by, request, s).token_ids[0])
            for request in requests_of(script, batch)
            for s in range(script.samples)
        ]
        weights[batch + 1] = next_weights(weights[batch], tuple(tokens))
    return weights[script.batches]


class Node:
    """A worker's process: started, crashed, paused, cut off."""

    def __init__(self, cluster: Cluster, index: int):
        self.cluster, self.index, self.starts = cluster, index, 0
        self.paused_until = self.cut_until = 0.0
        self.worker: Worker | None = None
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.name = f"w{self.index}.{self.starts}"
        self.ordered = float("-inf")
        c = self.cluster
        self.worker = Worker(FakeEngine(c.faults, c.script, c.quiet))
        c.clock.after(c.faults.uniform(0.1, 1.0), lambda name=self.name: self.greet(name))  # type: ignore[misc]
        c.clock.after(STEP, lambda name=self.name: self.step(name))  # type: ignore[misc]

    def crash(self) -> None:
        self.worker = None
        name = self.name
        self.cluster.clock.after(
            self.cluster.faults.uniform(0.5, 4.0), lambda: self.start() if self.name == name else None
        )

    def greet(self, name: str) -> None:
        """Say hello until there are orders, and again where they cease: the driver may be another."""
        if self.name != name or self.worker is None:
            return
        c = self.cluster
        if c.clock.now - self.ordered > 2.0:
            c.send(self, lambda: c.driver and c.driver.hello(self, Hello(name, {})))
        c.clock.after(TIMING.beat, lambda: self.greet(name))

    def order(self, name: str, order: Order) -> None:
        if self.name == name and self.worker is not None:
            if self.cluster.clock.now < self.paused_until:  # read when it goes on
                self.cluster.clock.after(self.paused_until - self.cluster.clock.now, lambda: self.order(name, order))
                return
            self.ordered = self.cluster.clock.now
            self.worker.carry_out(order)
            self.report()

    def step(self, name: str) -> None:
        if self.name != name or self.worker is None:
            return
        c = self.cluster
        if c.clock.now >= self.paused_until:
            before = self.worker.finished
            try:
                self.worker.step()
            except EngineFailure:
                c.lost(self, name)
                self.crash()
                return
            if self.worker.finished != before:
                self.report()
        c.clock.after(STEP, lambda: self.step(name))

    def report(self) -> None:
        assert self.worker is not None
        name, report, c = self.name, self.worker.report(), self.cluster
        c.send(self, lambda: c.driver and c.driver.report(name, report))


class Driver:
    """The run: samples by plan, writes batches, trains, publishes."""

    def __init__(self, cluster: Cluster, session: int):
        self.cluster, self.disk, self.script = cluster, cluster.disk, cluster.script
        self.pool = Pool(str(session), TIMING)
        self.tasks: dict[int, tuple[int, int]] = {}
        self.got: dict[int, dict[tuple[int, int], int]] = {}
        self.nodes: dict[str, Node] = {}
        self.training = False
        for version, weights in sorted(self.disk.weights.items()):
            self.pool.publish(self.offer(version, weights), keep=self.disk.weights)
        self.submit_due()
        self.tick()

    def offer(self, version: int, weights: int) -> Weights:
        return Weights(version, weights, "")

    def alive(self) -> bool:
        return self.cluster.driver is self

    def hello(self, node: Node, hello: Hello) -> None:
        if hello.name == node.name and hello.name not in self.nodes:
            self.nodes[hello.name] = node
            self.pool.joined(hello, self.cluster.clock.now)

    def report(self, name: str, report: Report) -> None:
        self.pool.reported(name, report, self.cluster.clock.now)
        self.collect()

    def tick(self) -> None:
        if not self.alive():
            return
        orders, hung = self.pool.poll(self.cluster.clock.now)
        for name, order in orders:
            node = self.nodes[name]
            self.cluster.send(node, lambda node=node, name=name, order=order: node.order(name, order))  # type: ignore[misc]
        for name in hung:
            self.cluster.kill(self.nodes[name], name)
        self.collect()
        self.cluster.clock.after(0.1, self.tick)

    def submit_due(self) -> None:
        for batch in batches_due(self.disk.trained, self.script.lag):
            if batch < self.script.batches and batch not in self.disk.batches and batch not in self.got:
                self.got[batch] = {}
                for i, request in enumerate(requests_of(self.script, batch)):
                    version = sampled_by(batch, self.script.lag)
                    task = self.pool.submit(replace(request, version=version))
                    self.tasks[task] = (batch, i)

    def collect(self) -> None:
        for task, sample, completion in self.pool.take():
            batch, request = self.tasks[task]
            assert (request, sample) not in self.got[batch], "a sample was delivered twice"
            self.got[batch][request, sample] = int(completion.token_ids[0])
        for batch, got in list(self.got.items()):
            if len(got) == self.script.prompts * self.script.samples:
                if self.cluster.disk_is_full():
                    self.cluster.stop_driver()
                    return
                tokens = tuple(token for _, token in sorted(got.items()))
                self.disk.batches[batch] = sampled_by(batch, self.script.lag), tokens
                del self.got[batch]
        if self.disk.trained in self.disk.batches and not self.training and self.disk.trained < self.script.batches:
            self.training = True
            self.cluster.clock.after(self.cluster.faults.uniform(0.1, 2.0), self.trained)

    def trained(self) -> None:
        if not self.alive():
            return
        if self.cluster.disk_is_full():
            self.cluster.stop_driver()
            return
        disk, lag, batch = self.disk, self.script.lag, self.disk.trained
        version, tokens = disk.batches[batch]
        assert version == max(0, batch - lag), "a batch was sampled by another policy than the lag says"
        weights = {**disk.weights, batch + 1: next_weights(disk.weights[batch], tokens)}
        needed = policies_needed(batch + 1, lag, disk.batches) | {batch + 1}
        disk.weights = {v: weights[v] for v in needed}  # one atomic commit
        disk.trained = batch + 1
        disk.log.append(batch)
        self.training = False
        self.pool.publish(self.offer(batch + 1, disk.weights[batch + 1]), keep=needed)
        self.submit_due()
        self.collect()


class Cluster:
    """Everything, and what goes wrong with it."""

    def __init__(self, script: Script):
        self.script, self.clock, self.faults = script, Clock(), random.Random(script.seed + 1)
        self.disk = Disk(0, {0: script.seed})
        self.driver: Driver | None = None
        self.sessions = 0
        self.counts: Counter[str] = Counter()
        """What happened to the pools of all drivers."""
        self.nodes = [Node(self, i) for i in range(script.workers)]
        self.start_driver()
        self.clock.after(0.25, self.misfortune)

    def quiet(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.clock.now > END_OF_FAULTS

    def start_driver(self) -> None:
        self.sessions += 1
        self.driver = None
        driver = Driver.__new__(Driver)
        self.driver = driver
        driver.__init__(self, self.sessions)  # type: ignore[misc]

    def stop_driver(self) -> None:
        assert self.driver is not None
        self.counts += self.driver.pool.counts
        self.driver = None
        self.clock.after(self.faults.uniform(0.5, 3.0), lambda: None if self.driver else self.start_driver())

    def disk_is_full(self) -> bool:
        return not self.quiet() and self.faults.random() < self.script.full_disk

    def misfortune(self) -> None:
        def happens(rate: float) -> bool:
            return self.faults.random() < rate * 0.25

        if self.quiet():
            return
        node = self.faults.choice(self.nodes)
        if happens(self.script.crashes) and node.worker is not None:
            if self.faults.random() < 0.5:  # the transport says so; else silence does
                self.lost(node, node.name)
            node.crash()
        if happens(self.script.pauses):
            node.paused_until = self.clock.now + self.faults.uniform(0.5, 8.0)
        if happens(self.script.cuts):
            for cut in self.faults.sample(self.nodes, self.faults.randint(1, len(self.nodes))):
                cut.cut_until = self.clock.now + self.faults.uniform(0.5, 10.0)
        if happens(self.script.driver_crashes) and self.driver is not None:
            self.stop_driver()
        self.clock.after(0.25, self.misfortune)

    def lost(self, node: Node, name: str) -> None:
        """The transport tells the driver, somewhat later, that a worker's process has ended."""
        self.clock.after(self.faults.uniform(0.1, 2.0), lambda: self.driver and self.driver.pool.lost(name))

    def kill(self, node: Node, name: str) -> None:
        """Kill a worker that was given up, as soon as it can be reached."""
        if node.name != name or node.worker is None:
            return
        if self.clock.now < node.cut_until:
            self.clock.after(node.cut_until - self.clock.now + 0.01, lambda: self.kill(node, name))
        else:
            node.paused_until = 0.0
            node.crash()

    def send(self, node: Node, arrive: Callable[[], object]) -> None:
        """A message between the driver and a node."""
        if self.clock.now < node.cut_until:
            return
        script, quiet = self.script, self.quiet()
        for _ in range(1 if quiet or self.faults.random() >= script.double else 2):
            if not quiet and self.faults.random() < script.loss:
                continue
            slow = not quiet and self.faults.random() < script.slow
            self.clock.after(self.faults.uniform(0.5, 6.0) if slow else self.faults.uniform(0.001, 0.05), arrive)  # type: ignore[arg-type]

    def ended(self) -> bool:
        return self.disk.trained == self.script.batches


def run(seed: int) -> Cluster:
    """Play a schedule to its end; fails where a sample is lost, doubled or too old, or something waits without end."""
    script = Script.drawn(seed)
    cluster = Cluster(script)
    assert cluster.clock.run(cluster.ended, LAST_MOMENT), f"seed {seed} waits without end: {script}"
    if cluster.driver is not None:
        cluster.counts += cluster.driver.pool.counts
    assert cluster.disk.log == list(range(script.batches)), f"seed {seed}"
    assert cluster.disk.weights[script.batches] == expected(script), f"seed {seed} ends in other weights: {script}"
    return cluster
