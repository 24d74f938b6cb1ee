"""Trainer ranks as processes of this machine: started, watched, and named where one is lost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO

from rethink.distributed.rank_process import PEER_LOST, REFUSED, RankSpec
from rethink.distributed.rank_watch import End, RankWatch

LOOK_SECONDS = 0.5
CAUSE_SECONDS = 3.0
LAST_WORDS = 400
"""Characters of a rank's errors that are shown."""


class RankProcesses(RankWatch):
    """Ranks as processes of this machine.

    Args:
        specs: of each.
        hang_seconds: a rank that is silent for so long is ended.
    """

    def __init__(self, specs: Sequence[RankSpec], hang_seconds: float):
        super().__init__([spec.rank for spec in specs], CAUSE_SECONDS)
        self._hang = hang_seconds
        self._closing = threading.Event()
        self._errors: dict[int, IO[bytes]] = {spec.rank: tempfile.TemporaryFile() for spec in specs}  # noqa: SIM115
        self._processes = {spec.rank: self._start(spec) for spec in specs}
        threading.Thread(target=self._watch, name="rank watch", daemon=True).start()

    def close(self) -> None:
        """End them all."""
        self._closing.set()
        for process in self._processes.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            process.kill()
            process.wait()
        for file in self._errors.values():
            file.close()

    def _start(self, spec: RankSpec) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # Without -P the folder that the command runs in comes first, and its `json.py` would be run.
            [sys.executable, "-P", "-m", "rethink.distributed.rank_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors[spec.rank],
            env=os.environ | {"RETHINK_RANK": str(spec.rank)},
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the watch says why
            process.stdin.write(json.dumps(dataclasses.asdict(spec)).encode() + b"\n")
            process.stdin.flush()
        return process

    def _watch(self) -> None:
        """Note who ends and who falls silent; the latter is killed, which breaks every wait for it."""
        silent = dict.fromkeys(self._processes, 0.0)
        pipes = {process.stdout: rank for rank, process in self._processes.items() if process.stdout is not None}
        while not self._closing.is_set() and pipes:
            started = time.monotonic()
            heard, _, _ = select.select(list(pipes), [], [], LOOK_SECONDS)
            # Time in which this process did not run either (it was stopped, say) is nobody's silence.
            passed = min(time.monotonic() - started, 2 * LOOK_SECONDS)
            for rank in pipes.values():
                silent[rank] += passed if rank in self.ready else 0.0
            for pipe in heard:
                rank = pipes[pipe]
                silent[rank] = 0.0
                if not os.read(pipe.fileno(), 4096):
                    del pipes[pipe]
                    self._has_ended(rank)
                else:
                    self._is_ready(rank)
            for rank in [rank for rank in pipes.values() if silent[rank] > self._hang]:
                self._ended(rank, End(f"has not answered for {self._hang:.0f} s and was ended"))
                self._processes[rank].kill()
                silent[rank] = 0.0

    def _has_ended(self, rank: int) -> None:
        code = self._processes[rank].wait()
        if self._closing.is_set():
            return
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if words := self._last_words(rank):
            how = words if code == REFUSED else f"{how} ({words[-LAST_WORDS:]})"
        self._ended(rank, End(how, primary=code != PEER_LOST, refused=code == REFUSED))

    def _last_words(self, rank: int) -> str:
        file = self._errors[rank]
        file.seek(0)
        lines = file.read().decode(errors="replace").strip().splitlines() or [""]
        return lines[-1]
