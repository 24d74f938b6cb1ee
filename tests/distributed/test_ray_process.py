"""Ray's process that ends, hangs or has no room, played by processes without Ray."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rethink.distributed import ray_process
from rethink.distributed.cluster import Cluster
from rethink.distributed.ray_cluster import ILL_SECONDS, RayCluster
from rethink.distributed.ray_process import RayProcess, folder_for
from rethink.distributed.transport import Event, Lost, StoreFull
from rethink.errors import EngineFailure, UsageError
from tests.distributed.played_processes import full, killed, refused, silent


def opened(monkeypatch: pytest.MonkeyPatch, played: Any, notes: list[str]) -> RayProcess:
    monkeypatch.setattr(ray_process, "serve", played)
    monkeypatch.setattr(ray_process, "ray_module", lambda: None)
    return RayProcess(Cluster(hang_seconds=1), None, {}, notes.append, 0)  # type: ignore[arg-type]


def test_one_that_is_killed_as_it_starts_is_started_again_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    with pytest.raises(EngineFailure, match="Ray ends again and again: its process was ended by SIGKILL"):
        opened(monkeypatch, killed, notes)
    assert notes == ["Ray ended (its process was ended by SIGKILL); it is started again, with all workers."] * 2


def test_one_that_hangs_is_named_though_orders_fill_its_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    process = opened(monkeypatch, silent, notes)
    try:
        process.store({"weight": np.zeros(3, np.float32)})
        (file,) = Path(process._files.name).iterdir()
        for _ in range(3):
            process.send("w", b"0" * 2**20)  # type: ignore[arg-type]
        events: list[Event] = []
        until = time.monotonic() + 60
        while not any(isinstance(event, Lost) for event in events) and time.monotonic() < until:
            events += process.receive(0.02)
        assert events[1:] == [Lost("w", "Ray ended: its process has not answered for 1 s", "h")]
        assert notes == ["Ray ended (its process has not answered for 1 s); it is started again, with all workers."]
        assert not file.exists(), "weights that nobody reads stay in memory"
        assert process.stores == 2
    finally:
        process.close()


@pytest.mark.parametrize(("played", "error", "words"), [(full, StoreFull, "no room"), (refused, UsageError, "nothing")])
def test_what_a_new_start_cannot_mend_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, played: Any, error: type[Exception], words: str
) -> None:
    notes: list[str] = []

    def until_it_ends() -> None:
        process = opened(monkeypatch, played, notes)
        try:
            while True:
                process.receive(0.02)
        finally:
            process.close()

    with pytest.raises(error, match=words):
        until_it_ends()
    assert not notes


def test_weights_find_room_in_memory_or_on_disk_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = {"/dev/shm": 100, str(tmp_path): 1000}
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ray_process.os, "access", lambda *_: True)
    monkeypatch.setattr(ray_process.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[folder]))
    assert folder_for(40) == "/dev/shm"
    assert folder_for(400) == str(tmp_path)
    with pytest.raises(UsageError, match=r"/dev/shm has .* free, .* set TMPDIR to a larger folder"):
        folder_for(600)


def test_ray_is_ill_without_a_machine_or_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr("rethink.distributed.clock.time", SimpleNamespace(monotonic=lambda: seconds[0]))
    ray = RayCluster(Cluster(), (), print)

    def after(passed: float, said: bool | None) -> str | None:
        seconds[0] += passed
        ray._nodes = said
        return ray.ill()

    assert after(60, None) is None, "it is not joined yet"
    ray._asked = True
    assert after(1, True) is None
    assert after(60, None) is None, "this process was stopped itself"
    for _ in range(int(ILL_SECONDS) - 2):
        assert after(1, None) is None
    assert "gcs_server" in str(after(1, None))
    assert after(1, True) is None
    assert "raylet" in str(after(1, False))
