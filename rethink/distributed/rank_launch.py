"""Trainer ranks of this machine: started as processes, watched, and named where one is lost."""

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
from pathlib import Path
from typing import IO, Any

from rethink.distributed.cluster import Cluster
from rethink.distributed.gloo import GlooWire
from rethink.distributed.rank_group import Group
from rethink.distributed.rank_process import PEER_LOST, RankSpec
from rethink.errors import RankLost
from rethink.recipe.recipe_files import recipe_to_yaml
from rethink.runs.ranks import FSDP2, Ranks, Shared

LOOK_SECONDS = 0.5
CAUSE_SECONDS = 3.0
"""How long the cause of a broken connection is looked for."""
LAST_WORDS = 400
"""Characters of a rank's errors that are shown."""


class RankProcesses:
    """The processes of all ranks but the first.

    Args:
        specs: of each, in order.
        hang_seconds: a rank that is silent for so long is ended.
    """

    def __init__(self, specs: list[RankSpec], hang_seconds: float):
        self._hang = hang_seconds
        self._causes: dict[int, str] = {}
        self._secondary: dict[int, str] = {}
        self._ready: set[int] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._errors: dict[int, IO[bytes]] = {spec.rank: tempfile.TemporaryFile() for spec in specs}  # noqa: SIM115
        self._processes = {spec.rank: self._start(spec) for spec in specs}
        threading.Thread(target=self._watch, name="rank watch", daemon=True).start()

    def wait_ready(self, seconds: float) -> None:
        """Until every model is loaded.

        Raises:
            RankLost: one ended first, or takes longer.
        """
        with self._changed:
            there = self._changed.wait_for(
                lambda: len(self._ready) == len(self._processes) or self._causes or self._secondary, seconds
            )
            late = sorted(self._processes.keys() - self._ready)
        if self._causes or self._secondary:
            raise self.lost(-1, "its start")
        if not there:
            raise RankLost(
                f"trainer rank {late[0]} has not loaded the model within {seconds:.0f} s (`start_seconds` of the "
                "cluster file)"
            )

    def lost(self, rank: int, what: str) -> RankLost:
        """The error of a wait that broke: which rank is the cause, as far as that shows soon."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._causes), CAUSE_SECONDS)
            found = self._causes or self._secondary
            if found:
                first = next(iter(found))
                return RankLost(f"trainer rank {first} {found[first]}, while rank 0 waited for {what}")
        return RankLost(f"the connection to trainer rank {rank} broke while rank 0 waited for {what}")

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
                silent[rank] += passed if rank in self._ready else 0.0
            for pipe in heard:
                rank = pipes[pipe]
                silent[rank] = 0.0
                if not os.read(pipe.fileno(), 4096):
                    del pipes[pipe]
                    self._ended(rank)
                elif rank not in self._ready:
                    with self._changed:
                        self._ready.add(rank)
                        self._changed.notify_all()
            for rank in [rank for rank in pipes.values() if silent[rank] > self._hang]:
                self._note(rank, f"has not answered for {self._hang:.0f} s and was ended", primary=True)
                self._processes[rank].kill()
                silent[rank] = 0.0

    def _ended(self, rank: int) -> None:
        code = self._processes[rank].wait()
        if self._closing.is_set():
            return
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        self._note(rank, how + self._last_words(rank), primary=code != PEER_LOST)

    def _note(self, rank: int, cause: str, *, primary: bool) -> None:
        with self._changed:
            (self._causes if primary else self._secondary).setdefault(rank, cause)
            self._changed.notify_all()

    def _last_words(self, rank: int) -> str:
        file = self._errors[rank]
        file.seek(0)
        text = file.read().decode(errors="replace").strip()
        return f" ({text.splitlines()[-1][-LAST_WORDS:]})" if text else ""


def start_local(shared: Shared, cluster: Cluster) -> Ranks:
    """Start the cluster's ranks, less this process, on this machine.

    Raises:
        RankLost: one ended, or was too slow, before all had loaded the model.
    """
    size, trainer = cluster.ranks, cluster.trainer
    folder = tempfile.TemporaryDirectory(prefix="rethink-ranks-")
    meeting = Path(folder.name) / "meeting"
    processes = RankProcesses([_spec(shared, rank, cluster, meeting) for rank in range(1, size)], cluster.hang_seconds)

    def end() -> None:
        processes.close()
        folder.cleanup()

    try:
        processes.wait_ready(cluster.start_seconds)
        if trainer.strategy == FSDP2:
            from rethink.distributed.sharded_optimizer import join_sharded

            return join_sharded(meeting, 0, size, shared.choices["device"], trainer.recompute, processes.lost, end)
        return Group(GlooWire(meeting, 0, size, processes.lost), 0, size, end)
    except BaseException:
        end()
        raise


def _spec(shared: Shared, rank: int, cluster: Cluster, meeting: Path) -> RankSpec:
    local, choices = Path(shared.checkpoint.source).expanduser(), shared.choices
    placement: dict[str, Any] = {key: choices[key] for key in ("threads", "device", "dtype")}
    return RankSpec(
        rank=rank,
        size=cluster.ranks,
        meeting=str(meeting),
        recipe=recipe_to_yaml(shared.recipe),
        source=os.path.abspath(local) if local.exists() else shared.checkpoint.source,
        revision=shared.checkpoint.revision,
        placement=placement | {"kv_budget_bytes": 0},
        lanes=int(choices.get("lanes", 1)),
        micro_batch_tokens=int(choices["micro_batch_tokens"]),
        strategy=cluster.trainer.strategy,
        recompute=cluster.trainer.recompute,
    )
