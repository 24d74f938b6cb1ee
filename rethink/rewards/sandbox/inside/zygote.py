"""The first process in the sandbox: waits for jobs and forks one child for each.

It never reads what a job runs: sources go straight to the child through a pipe, so that nothing of an earlier job,
such as its tests, can be found in the memory that a later child inherits. A child cannot touch it: its filter of system
calls allows no signal, no trace, no limit of another process (see `rethink.rewards.sandbox.syscalls`).

    control socket   {"role", limits…} with four descriptors: source, input, output, errors  ─►  {"code", "cpu", "rss"}
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from . import confine, gym_jobs, program, run_tests

ROLES = {
    "script": program.run_script,
    "program": program.serve,
    "tests": run_tests.run,
    "entry": gym_jobs.make_entry,
    "score": gym_jobs.score,
}
PACKAGES, SCRATCH = "/packages", "/scratch"

PR_SET_PDEATHSIG = 1
STACK = 64 << 20
GRACE = 2.0
"""Seconds after a job's wall time at which its child is killed even if nobody outside asks for it."""

# Loaded once here, so that programs that import them start at once.
for _name in (
    "array bisect collections copy datetime decimal fractions functools heapq io itertools json math operator random "
    "re statistics string threading types typing"
).split():
    __import__(_name)


def main(control_fd: int, uid: int | None, bpf: bytes, module: str) -> NoReturn:
    """Serve jobs until the other end of the control socket closes.

    Args:
        control_fd: a SOCK_SEQPACKET socket.
        uid: user to become first; None: stay.
        bpf: the children's filter of system calls; empty: none (the unsafe choice).
        module: of a package; it is imported now, so that jobs that use it start at once. Empty: none.
    """
    if module:
        _load(module)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    control = socket.socket(fileno=control_fd)
    libc = ctypes.CDLL(None, use_errno=True)
    gc.freeze()  # pages that children do not have to copy
    control.send(json.dumps({"ready": os.getuid()}).encode())
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 4)
        if not message:
            os._exit(0)
        if message in (b"kill", b"cpu"):  # for a job that had just ended
            continue
        job = json.loads(message)
        child = os.fork()
        if child == 0:
            _child(job, fds, control_fd, libc, bpf)
        for fd in fds:
            os.close(fd)
        control.send(json.dumps(_await(child, control, job["wall"] + GRACE)).encode())


def _load(module: str) -> None:
    """Import a package, which may want to keep files while it loads; no job may write where they lay."""
    os.environ["MPLCONFIGDIR"] = SCRATCH
    sys.path.append(PACKAGES)
    importlib.import_module(module)
    shutil.rmtree(SCRATCH, ignore_errors=True)  # all that is in it: a mount point stays
    os.chmod(SCRATCH, 0o555)


def _await(child: int, control: socket.socket, seconds: float) -> dict[str, float]:
    """Wait for the child; kill it when asked to, when the host is gone, or when its time is long over."""
    pidfd, until, warned = os.pidfd_open(child), time.monotonic() + seconds, False
    try:
        while True:
            ready, _, _ = select.select([pidfd, control.fileno()], [], [], max(0.0, until - time.monotonic()))
            if pidfd in ready:
                break
            if not ready and not warned:  # all of us may have been stopped meanwhile
                until, warned = time.monotonic() + GRACE, True
                continue
            if not ready or control.recv(16) != b"cpu":
                os.kill(child, signal.SIGKILL)
                break
            control.send(json.dumps({"used": time.clock_gettime(_cpu_clock(child))}).encode())
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(OSError):  # what it started, which only the unsafe choice lets it
            os.killpg(child, signal.SIGKILL)
    finally:
        os.close(pidfd)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss << 10}


def _cpu_clock(pid: int) -> int:
    """The clock of a process's processor time (MAKE_PROCESS_CPUCLOCK of linux/posix-timers.h, CPUCLOCK_SCHED)."""
    return (~pid << 3) | 2


def _child(job: dict[str, Any], fds: list[int], control_fd: int, libc: ctypes.CDLL, bpf: bytes) -> NoReturn:
    code = 1
    try:
        os.close(control_fd)
        source_fd, *streams = fds
        for target, fd in enumerate(streams):  # the four that came are above 2, where /dev/null lies
            os.dup2(fd, target)
            os.close(fd)
        _limit(job, libc, bpf)
        with os.fdopen(source_fd, "rb") as pipe:
            payload = json.loads(pipe.read())
        code = ROLES[job["role"]](payload)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            os.write(2, f"{type(error).__name__}: {error}\n"[:1000].encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _limit(job: dict[str, Any], libc: ctypes.CDLL, bpf: bytes) -> None:
    """Limits, then the filter, which is final."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setpgid(0, 0)
    for kind, most in (
        (resource.RLIMIT_AS, job["memory"]),
        (resource.RLIMIT_CPU, job["cpu"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        # Without a user of its own, the user's other processes would count.
        *([(resource.RLIMIT_NPROC, job["threads"])] if bpf else []),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # A program may catch the signal of the first limit on processor time; the second one, a second later, kills.
        resource.setrlimit(kind, (value, value + (kind == resource.RLIMIT_CPU)))
    if bpf:
        confine.set_filter(libc, bpf)


def start(arguments: list[str]) -> NoReturn:
    """`CONTROL_FD UID|- BPF_IN_HEX MODULE`."""
    control_fd, uid, bpf, module = arguments
    sys.argv = [""]
    main(int(control_fd), None if uid == "-" else int(uid), bytes.fromhex(bpf), module)
