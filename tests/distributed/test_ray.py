"""A run on workers ends in the bits of a run in one process, whoever dies meanwhile."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.distributed.cluster import Cluster
from rethink.distributed.opening import on_cluster
from rethink.distributed.pool_engine import PoolEngine
from rethink.distributed.watch import Onlooker
from rethink.kinds.grpo.run import train
from rethink.observe.glossary import GLOSSARY
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.store.cluster_log import add_event, events
from rethink.store.run_folder import RunFolder
from tests.runs.compare import PLACES, same_run

from .processes import MARK, marked, role

pytest.importorskip("ray", reason="the extra `ray` is not installed")

CLUSTER = Cluster(workers=2, threads=1)
OURS = str(os.getpid())


def hash_of(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


def worker_processes() -> dict[str, int]:
    """Process id of each live worker, by its name."""
    return {p.environment["RETHINK_WORKER"]: p.id for p in marked(OURS) if role(p) == "worker"}


@pytest.fixture
def run(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`run(out, *overrides, cluster=…, resume=…)` trains and returns the summary."""
    monkeypatch.setenv(MARK, OURS)
    monkeypatch.setenv("PYTHONPATH", str(recipe_file.parent))  # the rewards' module, for reward workers
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other tests may fill the memory

    def go(out: Path, *overrides: str, cluster: Cluster | None = None, resume: bool = False) -> dict[str, Any]:
        progress = make_progress("none")
        recipe = load_recipe(recipe_file, overrides)
        if cluster is None:
            return train(recipe, out, resume=resume, progress=progress)
        with on_cluster(cluster, Onlooker(progress.note, record=lambda event: add_event(out, event))):
            return train(recipe, out, resume=resume, progress=progress)

    return go


Strike = Callable[[], None]


@pytest.fixture
def at_third_version(monkeypatch: pytest.MonkeyPatch) -> Callable[[Strike], None]:
    """`at_third_version(strike)`: strike once, just before the samples of the third version are asked for."""
    stored: list[int] = []
    store = PoolEngine._store

    def on(strike: Strike) -> None:
        def watched(engine: PoolEngine, version: int) -> None:
            store(engine, version)
            stored.append(1)
            if len(stored) == 3:
                strike()

        monkeypatch.setattr(PoolEngine, "_store", watched)

    return on


def test_workers_give_the_bits_of_one_process_though_one_is_killed(
    run: Callable[..., dict[str, Any]], at_third_version: Callable[[Strike], None], tmp_path: Path
) -> None:
    alone = run(tmp_path / "alone")
    at_third_version(lambda: os.kill(worker_processes()["worker-0.1"], signal.SIGKILL))
    spread = run(tmp_path / "spread", cluster=CLUSTER)
    assert hash_of(tmp_path / "alone") == hash_of(tmp_path / "spread")
    assert alone["finished"]
    assert spread["finished"]
    assert not worker_processes(), "workers outlive the run"
    rows = RunFolder.open(tmp_path / "spread").metrics()
    assert {name for row in rows for name in row if name.startswith("cluster/")} == {
        name for name in GLOSSARY if name.startswith("cluster/")
    }
    assert sum(row.get("cluster/lost", 0) for row in rows) == 1
    same_run(tmp_path / "alone", tmp_path / "spread", PLACES)
    (lost,) = events(tmp_path / "spread")
    assert (lost["event"], lost["worker"], lost["host"]) == ("lost", "worker-0.1", socket.gethostname())
    assert lost["cause"] == "its process was killed, not for want of memory, or crashed"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["raylet", "gcs_server", "a stopped worker", "all workers"])
def test_whoever_dies_the_bits_stay(
    run: Callable[..., dict[str, Any]], at_third_version: Callable[[Strike], None], tmp_path: Path, victim: str
) -> None:
    run(tmp_path / "alone")

    def strike() -> None:
        workers = worker_processes()
        hit = {"a stopped worker": [workers["worker-1.1"]], "all workers": list(workers.values())}
        for process in hit.get(victim) or [p.id for p in marked(OURS) if role(p) == victim]:
            os.kill(process, signal.SIGSTOP if "stopped" in victim else signal.SIGKILL)

    at_third_version(strike)
    run(tmp_path / "spread", cluster=CLUSTER)
    assert hash_of(tmp_path / "alone") == hash_of(tmp_path / "spread")


@pytest.mark.slow
def test_workers_sample_ahead_of_training_though_one_is_killed(
    run: Callable[..., dict[str, Any]], at_third_version: Callable[[Strike], None], tmp_path: Path
) -> None:
    lagging = ("rollout.lag=1", "algorithm={mini_batches: 2, beta: 0.02}", "model.dtype=bfloat16")
    run(tmp_path / "alone", *lagging)
    at_third_version(lambda: os.kill(worker_processes()["worker-0.1"], signal.SIGKILL))
    run(tmp_path / "spread", *lagging, cluster=CLUSTER)
    assert hash_of(tmp_path / "alone") == hash_of(tmp_path / "spread")
