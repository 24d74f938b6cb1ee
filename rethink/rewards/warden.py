"""The warden of the reward workers: a small process, started afresh, that forks them warm and ends them for sure.

    run ──control──► warden ──fork──► worker, worker, …
     └───────────────── a socket each ──────────┘

It has one thread and no torch, so forking is sound whatever the training process holds. Each worker leads a session of
its own. A worker that is to end is killed with its process group; what it has started elsewhere falls to the warden
(which is the subreaper) and is killed too. Workers die with the warden (parent-death signal), and the warden ends,
killing all, when the run's end of the control socket closes or the run's process is gone.

Started as `python -m rethink.rewards.warden FD`, with the setup as JSON on standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from rethink.rewards.reward_worker import preload, serve

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOOK = 0.5
"""Seconds between looks at whether the run is still there."""
SWEEPS = 50
"""Rounds of killing what a worker left behind; each round reaches the children of the last."""


class Warden:
    """Forks workers and ends them.

    Args:
        control: the socket to the run; messages keep their bounds (SOCK_SEQPACKET).
        setup: what the workers are to know.
    """

    def __init__(self, control: socket.socket, setup: Mapping[str, Any]):
        self._control = control
        self._setup = setup
        self._run = int(setup["pid"])
        self._workers: dict[int, tuple[int, int]] = {}  # worker id -> (pid, pidfd)
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Serve until the run has gone."""
        self._tell({"event": "ready"})
        while os.getppid() == self._run:
            for key, _ in self._selector.select(LOOK):
                if key.data is None:
                    if not self._command():
                        return
                else:
                    self._ended(key.data)
            self._reap_strays()

    def close(self) -> None:
        """Kill every worker and all that they started."""
        for pid, _ in self._workers.values():
            _kill_group(pid)
        self._workers.clear()
        self._sweep()

    def _command(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        except ConnectionResetError:  # it closed with something of ours unread
            return False
        if not data:
            return False
        command = json.loads(data)
        if command["do"] == "start":
            self._start(command["id"], descriptors[0])
        elif command["id"] in self._workers:
            _kill_group(self._workers[command["id"]][0])
        return True

    def _start(self, number: int, descriptor: int) -> None:
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._be_worker(descriptor)
        os.close(descriptor)
        watch = os.pidfd_open(pid)
        self._workers[number] = (pid, watch)
        self._selector.register(watch, selectors.EVENT_READ, number)
        self._tell({"event": "started", "id": number, "pid": pid})

    def _be_worker(self, descriptor: int) -> None:
        """In the child: never returns."""
        code = 1
        try:
            warden = os.getppid()
            os.setsid()
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != warden:
                os._exit(1)
            self._selector.close()
            self._control.close()
            for _, watch in self._workers.values():
                os.close(watch)
            serve(socket.socket(fileno=descriptor), self._setup)
            code = 0
        except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _ended(self, number: int) -> None:
        pid, watch = self._workers.pop(number)
        self._selector.unregister(watch)
        os.close(watch)
        _kill_group(pid)  # children of a worker that ended on its own
        _, status = os.waitpid(pid, 0)
        self._sweep()
        self._tell({"event": "ended", "id": number, "code": os.waitstatus_to_exitcode(status)})

    def _sweep(self) -> None:
        """Kill what ended workers left behind: their orphans are children of ours that we never forked."""
        for _ in range(SWEEPS):
            known = {pid for pid, _ in self._workers.values()}
            strays = [pid for pid in _children() if pid not in known]
            if not strays:
                return
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._reap_strays()
            time.sleep(0.002)

    def _reap_strays(self) -> None:
        known = {pid for pid, _ in self._workers.values()}
        for pid in _children():
            if pid not in known:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())


def _children() -> list[int]:
    """Pids of this process's children."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without that file
        return _children_by_search()


def _children_by_search() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(entry))
    return found


def _kill_group(pid: int) -> None:
    # The group is the worker's once it has its session; before that, the worker itself.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> None:
    """Read the setup, load what is needed, and serve."""
    setup = json.load(sys.stdin.buffer)
    os.dup2(2, 1)  # what checkers print must not mix with the run's own output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, and the run ends us
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.path[:] = setup["path"]
    preload(setup)
    warden = Warden(socket.socket(fileno=int(sys.argv[1])), setup)
    try:
        warden.run()
    finally:
        warden.close()


if __name__ == "__main__":
    main()
