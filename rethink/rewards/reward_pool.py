"""The pool of reward workers, as the run sees it: jobs in, outcomes out, whatever the checkers do.

One thread of the run serves all sockets. A checker that reaches its limit on time is killed with its children and
replaced; the job gets a named failure, or is judged wrong (`rethink.rewards.blame`); the others never notice. Futures
keep the order and may be waited for from any thread.

How many at once. As many workers compute as there are cores. A worker that sleeps, or has computed for long, no longer
counts: another is started in its place, up to `MOST_WORKERS`. So checkers that hang hold no places. What "long" means
follows what honest checkers here have needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from rethink.errors import RewardFailure
from rethink.rewards.blame import LEAST_COMPUTED, exhausted, judge_is_ours, without_answer
from rethink.rewards.outcome import CRASH, TIMEOUT, failed
from rethink.rewards.parts import Item, RubricSpec
from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable
from rethink.rewards.sandbox.syscalls import compiled_filter
from rethink.rewards.worker_wire import Frames, encode, item_to_plain
from rethink.types import RewardOutcome

MOST_WORKERS = 64
"""Processes at once, stuck ones included; they are forked, so each holds little memory of its own."""
START_SECONDS = 60.0
"""Until a worker must be ready."""
SLEEPING_AFTER = 0.25
"""Seconds after which a worker that waits instead of computing gives its place up."""
LONG_SHARE = 0.125
"""Share of the limit after which a worker that computes gives its place up, unless honest ones here need longer."""
RENICE = 5
"""Niceness of a worker that has given its place up."""
PAUSED = 1.0
"""Seconds without a look at the clock after which the run was stopped (SIGSTOP, a paused machine), its workers too most
likely: that time is nobody's."""
KEPT = frozenset("HOME PATH LANG LANGUAGE TZ TMPDIR USER LD_LIBRARY_PATH VIRTUAL_ENV XDG_CACHE_HOME".split())
KEPT_PREFIXES = ("LC_", "PYTHON", "OPENBLAS_", "COVERAGE_")
"""Of the environment, what workers inherit that run built-in parts alone."""
JOBS_EACH = 5000
"""Jobs after which a worker is replaced: libraries keep caches."""

TRIES = 3
"""Workers that may end before they have begun a job; the next one counts as its fault."""

Outcomes = list[RewardOutcome]


@dataclass(slots=True)
class Job:
    """One part on one or more completions."""

    part: int
    items: Sequence[Item]
    future: Future[Outcomes]
    tries: int = 0
    failed: RewardOutcome | None = None
    """How the judge failed on the answer: the job now asks what it says of none."""


@dataclass(slots=True)
class Worker:
    """What the run knows of a worker."""

    number: int
    connection: socket.socket
    started: float
    """When it was started, or its job was sent."""
    pid: int | None = None
    ready: bool = False
    job: Job | None = None
    processor: float = 0.0
    """Processor seconds when its job was sent."""
    stuck: bool = False
    begun: bool = False
    """Whether it has its job: one that ended before did not end by it."""
    leaving: bool = False
    """It gets no further jobs."""
    dying: str | None = None
    """Why it was killed."""
    held_up: bool = False
    """Whether the machine, and not the job, is to blame for its end."""
    done: int = 0
    frames: Frames = field(default_factory=Frames)


class RewardPool:
    """Workers for the parts of a rubric.

    Args:
        rubric: the parts, as plain values.
        worker_parts: indices of the parts that workers are asked for; they are loaded before workers are forked.
        seconds: limit on one call; a call on n completions may take n times as long.
        memory_bytes: limit on a worker's memory.
        places: workers that compute at once; None: the cores this process may use.

    Raises:
        RewardFailure: the workers cannot be started at all.
    """

    def __init__(
        self,
        rubric: RubricSpec,
        worker_parts: Sequence[int],
        *,
        seconds: float = 5.0,
        memory_bytes: int = 1 << 30,
        places: int | None = None,
    ):
        self._own_code = _runs_own_code(rubric, worker_parts)
        self._rubric = rubric
        self._setup = {"rubric": rubric, "worker_parts": list(worker_parts), "memory_bytes": memory_bytes}
        if not self._own_code:
            self._setup["filter"] = worker_filter()
        self._seconds = seconds
        self._places = places or len(os.sched_getaffinity(0))
        self._looked = time.monotonic()
        self._longest = 0.0  # seconds that the slowest honest call took
        self._pending: deque[Job] = deque()
        self._workers: dict[int, Worker] = {}
        self._numbers = 0
        self._lock = threading.Lock()
        self._closing = False
        self._broken: str | None = None
        self._selector = selectors.DefaultSelector()
        self._wake, wakes = socket.socketpair()
        self._wake.setblocking(False)
        self._selector.register(wakes, selectors.EVENT_READ, "wake")
        self._wakes = wakes
        self._start_warden()
        self._thread = threading.Thread(target=self._serve, name="rewards", daemon=True)
        self._thread.start()

    def submit(self, part: int, items: Sequence[Item]) -> Future[Outcomes]:
        """Score completions with a part; the future's outcomes are in the items' order. Never blocks."""
        job = Job(part, items, Future())
        with self._lock:
            if self._closing or self._broken:
                raise RewardFailure(self._broken or "the reward workers are closed")
            self._pending.append(job)
        self._notify()
        return job.future

    def close(self) -> None:
        """End all workers; calls still open fail as crashed."""
        with self._lock:
            self._closing = True
        self._notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)
        self._at_exit()

    def pids(self) -> list[int]:
        """Of the living workers."""
        with self._lock:
            return [worker.pid for worker in self._workers.values() if worker.pid is not None]

    # --- the serving thread ------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._closing:
                self._give_out()
                for key, _ in self._selector.select(self._patience()):
                    if key.data == "wake":
                        self._wakes.recv(4096)
                    elif key.data == "control":
                        self._hear_warden()
                    else:
                        self._hear(key.data)
                self._look_at_the_clock()
        except Exception as error:  # no future may wait for ever
            self._broken = f"the reward workers stopped ({type(error).__name__}: {error}); continue with --resume"
        finally:
            self._abandon(self._broken or "the reward workers were closed")

    def _give_out(self) -> None:
        """Send pending jobs to idle workers, and start workers where places are free."""
        with self._lock:
            free = self._places - sum(w.job is not None and not w.stuck for w in self._workers.values())
            idle = [w for w in self._workers.values() if w.ready and w.job is None and not w.leaving]
            starting = sum(not w.ready and not w.leaving for w in self._workers.values())
            batch = [self._pending.popleft() for _ in range(min(free, len(idle), len(self._pending)))]
            wanted = min(free - len(batch), max(len(self._pending), self._places - len(idle))) - starting
            room = MOST_WORKERS - len(self._workers)
        for worker, job in zip(idle, batch, strict=False):
            self._send(worker, job)
        for _ in range(min(wanted, room)):
            self._start_worker()
        if not self._pending:
            for worker in idle[len(batch) + self._places :]:
                self._retire(worker)

    def _send(self, worker: Worker, job: Job) -> None:
        worker.job, worker.stuck, worker.begun, worker.started = job, False, False, time.monotonic()
        job.tries += 1
        worker.processor = _processor_seconds(worker.pid)[0]
        try:
            message = encode({"part": job.part, "items": [item_to_plain(*item) for item in job.items]})
            worker.connection.settimeout(START_SECONDS)  # it is idle, so it reads at once
            worker.connection.sendall(message)
            worker.connection.setblocking(False)
        except OSError:
            return  # it died; the warden says how
        except (TypeError, ValueError) as error:  # metadata that is no JSON
            worker.job = None
            _settle(job, failed("invalid", f"the problem cannot be sent to a worker ({error})"))

    def _hear(self, worker: Worker) -> None:
        if worker.connection.fileno() < 0 or worker.connection not in self._selector.get_map():
            return  # forgotten since the selector named it
        try:
            data = worker.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(worker.connection)
            worker.leaving = True
            return  # the warden says how it ended
        for frame in worker.frames.feed(data):
            if "ready" in frame:
                worker.ready = True
            elif "begun" in frame:
                worker.begun = True
            elif worker.job is not None:
                job, worker.job, worker.stuck = worker.job, None, False
                worker.done += 1
                self._longest = max(self._longest, (time.monotonic() - worker.started) / len(job.items))
                self._end_job(job, [RewardOutcome(*outcome) for outcome in frame["outcomes"]])
                worker.leaving = frame["leaving"]
                if worker.done >= JOBS_EACH:
                    self._retire(worker)

    def _hear_warden(self) -> None:
        data = self._control.recv(4096)
        if not data:
            self._warden_ended()
            return
        message = json.loads(data)
        worker = self._workers.get(message.get("id", -1))
        if message["event"] == "started" and worker is not None:
            worker.pid = message["pid"]
            if worker.dying is not None:
                self._kill(worker)
        elif message["event"] == "ended" and worker is not None:
            self._drain(worker)
            # Nothing in a worker kills it so: the kernel did, for want of memory, or a person.
            worker.held_up |= worker.dying is None and message["code"] == -signal.SIGKILL
            self._forget(worker, _how_it_ended(message["code"]))

    def _drain(self, worker: Worker) -> None:
        """An answer that was sent before the end counts."""
        while worker.job is not None and worker.connection in self._selector.get_map() and _readable(worker.connection):
            self._hear(worker)

    def _forget(self, worker: Worker, how: str) -> None:
        if worker.connection.fileno() >= 0 and worker.connection in self._selector.get_map():
            self._selector.unregister(worker.connection)
        worker.connection.close()
        with self._lock:
            self._workers.pop(worker.number, None)
        if worker.job is not None and not worker.begun and worker.dying is None and worker.job.tries < TRIES:
            self._pending.appendleft(worker.job)
        elif worker.job is not None:
            outcome = failed(TIMEOUT, worker.dying) if worker.dying else failed(CRASH, how)
            self._end_job(worker.job, [outcome] * len(worker.job.items), held_up=worker.held_up)
        elif not worker.ready and worker.dying is None and self._pending:
            # It died while starting, as the next one would: no job may wait for ever.
            _settle(self._pending.popleft(), failed(CRASH, f"a worker ended while starting: {how}"))

    def _end_job(self, job: Job, outcomes: Outcomes, *, held_up: bool = False) -> None:
        """Settle a job, or repeat it without its answer if that may have exhausted a built-in checker."""
        (problem, *_), *more = job.items
        if job.failed is not None:
            outcomes = outcomes if outcomes[0].failure is None else [job.failed]
        elif not (more or held_up) and exhausted(outcomes[0]) and judge_is_ours(self._rubric, job.part, problem.task):
            job.failed, job.tries, job.items = outcomes[0], 0, [without_answer(job.items[0])]
            with self._lock:
                self._pending.appendleft(job)
            return
        if not job.future.done():
            job.future.set_result(outcomes)

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        gap, self._looked = now - self._looked, now
        for worker in list(self._workers.values()):
            if gap > PAUSED:
                worker.started = min(now, worker.started + gap)
            if worker.dying is not None:
                continue
            taken = now - worker.started
            if worker.job is None:
                if not worker.ready and taken > START_SECONDS:
                    worker.leaving, worker.dying = True, f"a worker was not ready after {START_SECONDS:g} s"
                    self._kill(worker)
                continue
            limit = self._seconds * len(worker.job.items)
            if taken > limit:
                used = _processor_seconds(worker.pid)[0] - worker.processor
                worker.dying = f"longer than {limit:g} s ({used:.1f} s of processor time)"
                worker.held_up = used < LEAST_COMPUTED * limit
                worker.stuck = worker.leaving = True
                self._kill(worker)
            elif not worker.stuck:
                worker.stuck = self._gives_place_up(worker, taken, limit)

    def _gives_place_up(self, worker: Worker, taken: float, limit: float) -> bool:
        if taken < SLEEPING_AFTER or worker.pid is None:
            return False
        used, state = _processor_seconds(worker.pid)
        if state in "SD" and used - worker.processor < 0.3 * taken:
            return True
        if taken > max(limit * LONG_SHARE, min(2 * self._longest, limit)):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, worker.pid, RENICE)
            return True
        return False

    def _patience(self) -> float:
        """Seconds until a clock must be looked at."""
        if any(worker.job is not None or not worker.ready for worker in self._workers.values()):
            return 0.05
        return 60.0

    # --- workers and their warden ------------------------------------------------------------------------------------

    def _start_warden(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [entry or os.getcwd() for entry in sys.path]
        setup = {**self._setup, "path": path, "pid": os.getpid()}
        # One thread for the libraries' own pools: a process with threads cannot be forked soundly.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # Keys and tokens of the environment are for functions of the user's alone.
        inherited = {k: v for k, v in os.environ.items() if self._own_code or k in KEPT or k.startswith(KEPT_PREFIXES)}
        environment = {**inherited, **single, "PYTHONPATH": os.pathsep.join(path)}
        try:
            self._warden = subprocess.Popen(
                # Without -P the folder that the command runs in comes first, and its `json.py` would be run.
                [sys.executable, "-P", "-m", "rethink.rewards.warden", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )
            assert self._warden.stdin is not None
            self._warden.stdin.write(json.dumps(setup).encode())
            self._warden.stdin.close()
        except OSError as error:
            raise RewardFailure(f"reward workers cannot be started ({error}); free memory or processes") from error
        finally:
            theirs.close()
        self._selector.register(self._control, selectors.EVENT_READ, "control")
        # The serving thread holds the pool, so this happens on `close` or when the interpreter ends.
        self._at_exit = weakref.finalize(self, _end, self._control, self._warden)

    def _start_worker(self) -> None:
        ours, theirs = socket.socketpair()
        self._numbers += 1
        ours.setblocking(False)
        worker = Worker(self._numbers, ours, time.monotonic())
        with self._lock:
            self._workers[worker.number] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        message = json.dumps({"do": "start", "id": worker.number}).encode()
        with contextlib.suppress(BrokenPipeError):
            socket.send_fds(self._control, [message], [theirs.fileno()])
        theirs.close()

    def _kill(self, worker: Worker) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._control.send(json.dumps({"do": "kill", "id": worker.number}).encode())

    def _retire(self, worker: Worker) -> None:
        worker.leaving = True
        with contextlib.suppress(OSError):
            worker.connection.shutdown(socket.SHUT_WR)

    def _warden_ended(self) -> None:
        """Somebody killed the warden, and with it every worker: start again; the calls in progress have crashed."""
        self._selector.unregister(self._control)
        self._control.close()
        code = self._warden.wait()
        workers = list(self._workers.values())
        for worker in workers:
            worker.held_up = True
            self._forget(worker, f"the workers' warden ended with {code}")
        if not any(worker.ready for worker in workers):
            self._broken = (
                f"the reward workers cannot be started (their first process ended with {code}; its output is "
                f"above). `python -c 'import rethink.rewards.warden'` in this environment should work."
            )
            raise RewardFailure(self._broken)
        self._start_warden()

    def _abandon(self, why: str) -> None:
        with self._lock:
            self._closing = True
            jobs = [w.job for w in self._workers.values() if w.job is not None] + list(self._pending)
            self._pending.clear()
        for job in jobs:
            _settle(job, failed(CRASH, why))
        for worker in self._workers.values():
            worker.connection.close()
        self._workers.clear()

    def _notify(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the thread has more than enough to wake it
            self._wake.send(b"!")


def _runs_own_code(rubric: RubricSpec, worker_parts: Sequence[int]) -> bool:
    """Whether workers run functions of the user's, which may need files, keys or the network."""
    parts = [rubric["parts"][index] for index in worker_parts]
    return any(part["function"] for part in parts) or any(j["kind"] == "python" for j in rubric["judges"].values())


def worker_filter() -> str | None:
    """The workers' filter of system calls, in hexadecimal; None where the machine has none."""
    try:
        return compiled_filter(reading_only=True).hex()
    except SandboxUnavailable:
        return None


def _settle(job: Job, outcome: RewardOutcome) -> None:
    if not job.future.done():
        job.future.set_result([outcome] * len(job.items))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the worker ended with exit code {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
    hint = ", perhaps by the kernel for want of memory" if -code == signal.SIGKILL else ""
    return f"the worker was killed by {name}{hint}"


def _readable(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _processor_seconds(pid: int | None) -> tuple[float, str]:
    """Processor time of a process so far, and its state (R runs or wants to, S and D wait)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0, "?"
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0].decode()


def _end(control: socket.socket, warden: subprocess.Popen[bytes]) -> None:
    """End the warden: the end of its control socket makes it kill all its workers; if it does not, it is killed."""
    with contextlib.suppress(OSError):
        control.shutdown(socket.SHUT_RDWR)
    control.close()
    try:
        warden.wait(timeout=5)
    except subprocess.TimeoutExpired:
        warden.kill()
        warden.wait()
