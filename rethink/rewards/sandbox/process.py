"""A sandbox as this process holds it, and the jobs that run in it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from rethink.rewards.sandbox.groups import Group, make_group
from rethink.rewards.sandbox.isolation import Choice, Contents, bare_environment, zygote_command
from rethink.rewards.sandbox.memory import held_below, line_of
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure, SandboxUnavailable

Role = Literal["script", "program", "tests", "entry", "score"]
START_SECONDS = 30.0
"""A sandbox starts in a tenth of a second, or in two seconds with packages; a machine under load may take longer."""
KILL_SECONDS = 5.0
SETTLE_SECONDS = 0.5
PATIENCE = 8
"""How many times `wall_seconds` a program may take that computes all the time, on a machine that is busy."""
TICK = 0.5
"""Seconds after which the clock is looked at."""
LOOK = 0.02
"""Seconds after which a job's memory is looked at."""
BUSY = 0.02
"""Share of the time on the clock that a program must have computed to be given more of it."""
ERRORS_KEPT = 4096
ERRORS_MOST = 8 << 20
"""Bytes on standard error; then the pipe is closed, and the program's next write fails."""
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use."""

    cpu_seconds: float = 5.0
    """Processor time of one run, rounded up to whole seconds."""
    wall_seconds: float = 5.0
    """Time on the clock of one run that hardly computes; see `pump` for one that does."""
    memory_bytes: int = 512 << 20
    """Address space; and what it holds together with its page tables, as `pump` sees it."""
    threads: int = 32
    output_bytes: int = 8 << 20
    """Characters written to standard output, or of one value that a function returns."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job's process ended."""

    code: int
    """Exit code; -N: by signal N."""
    cpu: float
    """Seconds of processor time."""
    rss: int
    """Peak memory, bytes."""
    over_memory: bool = False
    """Whether it was killed for the memory that it held."""

    def explain(self, limits: Limits) -> str:
        """In words."""
        if self.over_memory:
            return f"held more than {limits.memory_bytes >> 20} MiB of memory"
        if self.code == -signal.SIGXCPU or (self.code == -signal.SIGKILL and self.cpu >= limits.cpu_seconds):
            return f"used its {limits.cpu_seconds:g} s of processor time"
        if self.code < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.code).name}"
        return f"ended with exit code {self.code}"


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # `select` knows only the first 1024 descriptors
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Job:
    """One child of a sandbox's zygote, and our ends of its pipes."""

    def __init__(self, sandbox: Sandbox, pipes: tuple[int, int, int, int], memory_bytes: int):
        source, into, out, errors = pipes
        self.sandbox, self.memory_bytes = sandbox, memory_bytes
        self.ended: Ended | None = None
        self.into, self.out = into, out
        self.open = {source, into, out, errors}
        self.waiting: dict[int, memoryview] = {}
        self.close_after: set[int] = {source}
        self.error_text, self.error_bytes = b"", 0
        self.source, self.errors = source, errors

    def write(self, fd: int, data: bytes, *, last: bool = False) -> None:
        """Queue bytes for one of the job's pipes; `last` closes it once they are written."""
        if fd not in self.open:  # the process has ended
            return
        before = bytes(self.waiting.get(fd, b""))
        self.waiting[fd] = memoryview(before + data)
        if last:
            self.close_after.add(fd)

    def drop(self, fd: int) -> None:
        """Close our end of a pipe."""
        if fd in self.open:
            self.open.remove(fd)
            self.waiting.pop(fd, None)
            os.close(fd)

    def settle(self) -> None:
        """Wait a moment for word of how it ended, once its output has."""
        if self.ended is None and _readable(self.sandbox.control_fd(), SETTLE_SECONDS):
            self.ended = self.sandbox.read_end()

    def watch(self) -> None:
        """Kill it where it holds more memory than it may."""
        if self.ended is None and self.sandbox.held() > self.memory_bytes:
            ended = self.sandbox.kill_job()
            self.ended = None if ended is None else replace(ended, over_memory=True)
            self.drop(self.into)

    def end(self) -> None:
        """Kill what still runs, and close the pipes."""
        for fd in tuple(self.open):
            self.drop(fd)
        if self.ended is None:
            self.ended = self.sandbox.kill_job()


class Sandbox:
    """An isolated process that forks a child for each job. Not for two threads at once.

    Args:
        choice: isolated, or not at all.
        contents: what it holds.
        as_root: see `zygote_command`.

    Raises:
        SandboxUnavailable: it cannot be started here.
    """

    def __init__(self, choice: Choice = "required", contents: Contents = "standard", *, as_root: bool | None = None):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._group: Group | None = None
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                command = zygote_command(choice, theirs.fileno(), contents=contents, as_root=as_root)
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=bare_environment(),
                )
            except BaseException:
                self._control.close()
                raise
            theirs.close()
            hello = self._receive(START_SECONDS)
            if hello is None or "ready" not in hello:
                self.close()
                errors.seek(0)
                said = errors.read(ERRORS_KEPT).decode("utf-8", "replace").strip().splitlines()
                raise SandboxUnavailable(
                    "it could not be started" + (f" ({said[-1][:300]})" if said else " (no word of why)")
                )
        line = line_of(self._process.pid)
        self._zygote, self._group, self._kills = line[-1], make_group(line), 0

    def start(self, role: Role, payload: dict[str, Any], limits: Limits) -> Job:
        """Fork a child for a job.

        Raises:
            SandboxFailure: the sandbox is gone.
        """
        pipes = [os.pipe() for _ in range(4)]  # source, input, output, errors
        theirs = [pipes[0][0], pipes[1][0], pipes[2][1], pipes[3][1]]
        source, into, out, errors = pipes[0][1], pipes[1][1], pipes[2][0], pipes[3][0]
        job = Job(self, (source, into, out, errors), limits.memory_bytes)
        if self._group is not None:
            self._group.hold(limits.memory_bytes)
        values = {
            "role": role,
            "wall": limits.wall_seconds * PATIENCE,
            "cpu": max(1, -int(-limits.cpu_seconds // 1)),
            "memory": limits.memory_bytes,
            "threads": limits.threads,
        }
        try:
            socket.send_fds(self._control, [json.dumps(values).encode()], theirs)
        except OSError as error:
            job.ended = Ended(0, 0.0, 0)
            job.end()
            raise SandboxFailure(f"the sandbox is gone ({error.strerror})") from None
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in job.open:
            os.set_blocking(fd, False)
        job.write(source, json.dumps(payload).encode(), last=True)
        return job

    def held(self) -> int:
        """Bytes of memory that the running job holds, with its page tables."""
        return held_below(self._zygote)

    def control_fd(self) -> int:
        """Readable when a job has ended."""
        return self._control.fileno()

    def used_cpu(self, job: Job) -> float:
        """Seconds of processor time that the running job has used. Raises `SandboxFailure`."""
        if job.ended is None:
            with contextlib.suppress(OSError):
                self._control.send(b"cpu")
            found = self._receive(KILL_SECONDS)
            if found is None:
                raise SandboxFailure("the sandbox is gone")
            if "used" in found:
                return float(found["used"])
            job.ended = self._ended(found)
        return job.ended.cpu

    def read_end(self) -> Ended:
        """How the job ended. Raises `SandboxFailure` when the sandbox itself is gone."""
        found = self._receive(KILL_SECONDS)
        if found is None:
            raise SandboxFailure("the sandbox is gone")
        return self._ended(found)

    def _ended(self, found: dict[str, Any]) -> Ended:
        before, self._kills = self._kills, 0 if self._group is None else self._group.kills()
        return Ended(int(found["code"]), float(found["cpu"]), int(found["rss"]), self._kills > before)

    def kill_job(self) -> Ended | None:
        """End the running job; where the zygote does not answer, the sandbox goes with it."""
        with contextlib.suppress(OSError, SandboxFailure):
            self._control.send(b"kill")
            return self.read_end()
        self.close()
        return None

    @property
    def alive(self) -> bool:
        """Whether it can take a job."""
        return self._control.fileno() >= 0 and self._process.poll() is None

    def forget(self) -> None:
        """Close this process's end of the socket, where a fork has another."""
        self._control.close()

    def close(self) -> None:
        """Kill everything in it. The kernel ends every process of the sandbox with its first one."""
        self._control.close()
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        if self._group is not None:
            self._group.close()

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        message = b""
        # Twice: this process may have been stopped (Ctrl-Z) for the whole of the first time.
        for _ in range(2):
            try:
                if _readable(self._control.fileno(), seconds):
                    message = self._control.recv(4096)
                    break
            except (OSError, ValueError):  # closed, here or there
                break
        found: dict[str, Any] | None = json.loads(message) if message else None
        return found


Handler = Callable[[Job, bytes | None], bool]
"""Takes bytes of a job's output, or None for its end; True when the exchange is over."""


def pump(jobs: list[Job], handle: Handler, seconds: float) -> bool:
    """Move bytes until the handler is done or every job has ended and its output is read. False: out of time.

    Many programs run at once, and a run trains meanwhile: time on the clock says little of a program that computes. So
    one that has used at least `BUSY` of it continues (up to `PATIENCE` times as long) until its limit on processor time
    ends it; one that sleeps does not.

    Args:
        jobs: what runs, at most one a sandbox.
        handle: is called in the order in which things happen.
        seconds: on the clock.

    Raises:
        SandboxFailure: a sandbox broke.
    """
    clock, allowed, last = 0.0, seconds, time.monotonic()
    looked = last
    while True:
        now = time.monotonic()
        # Where this process was stopped meanwhile (Ctrl-Z), so were its programs: they are not charged for it.
        clock, last = clock + min(now - last, 2 * TICK), now
        if clock >= allowed:
            used = sum(job.sandbox.used_cpu(job) for job in jobs)
            if allowed >= seconds * PATIENCE or used < BUSY * allowed:
                return False
            allowed += seconds
            continue
        if now - looked >= LOOK:
            looked = now
            for job in jobs:
                job.watch()
        busy = [job for job in jobs if job.ended is None or job.out in job.open]
        if not busy:
            return True
        with selectors.PollSelector() as selector:  # registering costs nothing there
            for job in busy:
                _register(selector, job)
            for key, _ in selector.select(min(allowed - clock, LOOK)):
                job, fd = key.data, key.fd
                if fd == job.sandbox.control_fd() and job.ended is None:
                    job.ended = job.sandbox.read_end()
                    job.drop(job.into)
                elif fd in job.waiting:
                    _write(job, fd)
                elif fd in job.open and _read(job, fd, handle):
                    return True


def run_job(
    sandbox: Sandbox, role: Role, payload: dict[str, Any], limits: Limits, given: bytes = b""
) -> tuple[Job, bytes, bool]:
    """Run one job alone. Gives it, once it has ended, what it wrote, and whether it ended in time.

    It is ended when it has written more than it may.

    Raises:
        SandboxFailure: the sandbox broke.
    """
    job = sandbox.start(role, payload, limits)
    output = bytearray()

    def take(_: Job, data: bytes | None) -> bool:
        output.extend(data or b"")
        return len(output) > limits.output_bytes

    try:
        job.write(job.into, given, last=True)
        in_time = pump([job], take, limits.wall_seconds)
    finally:
        job.end()
    return job, bytes(output), in_time


def _register(selector: selectors.BaseSelector, job: Job) -> None:
    if job.ended is None:
        selector.register(job.sandbox.control_fd(), selectors.EVENT_READ, job)
    for fd in (job.out, job.errors):
        if fd in job.open:
            selector.register(fd, selectors.EVENT_READ, job)
    for fd in job.waiting:
        selector.register(fd, selectors.EVENT_WRITE, job)


def _write(job: Job, fd: int) -> None:
    try:
        left = job.waiting[fd][os.write(fd, job.waiting[fd][:CHUNK]) :]
    except BlockingIOError:
        return
    except OSError:  # it does not read any more
        left = memoryview(b"")
        job.close_after.add(fd)
    if left:
        job.waiting[fd] = left
        return
    del job.waiting[fd]
    if fd in job.close_after:
        job.drop(fd)


def _read(job: Job, fd: int, handle: Handler) -> bool:
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return False
    if not data:
        job.drop(fd)
    if fd == job.errors:
        job.error_text = (job.error_text + data)[-ERRORS_KEPT:]
        job.error_bytes += len(data)
        if job.error_bytes > ERRORS_MOST:
            job.drop(fd)
        return False
    return handle(job, data or None)


def shorter(limits: Limits, seconds: float) -> Limits:
    """The same limits with at most so much time on the clock."""
    return replace(limits, wall_seconds=max(0.0, min(limits.wall_seconds, seconds)))
