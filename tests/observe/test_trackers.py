"""Trackers: asked for before the run, each step once, and no trouble for the run."""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UsageError
from rethink.observe import trackers
from rethink.store.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, recipe_yaml="name: x\n", recipe_hash="h", environment={}, choices={})


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


class Fake:
    """Stands for both wandb and trackio; remembers what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.broken = False
        module = types.ModuleType(name)
        vars(module).update(init=self.init, log=self.log, finish=self.finish, Settings=lambda **options: options)
        monkeypatch.setitem(sys.modules, name, module)

    def init(self, **options: Any) -> "Fake":
        print("hello from the tracker")
        self.started.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if self.broken:
            raise OSError("network gone")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def run_steps(folder: RunFolder, opened: trackers.Trackers, steps: range) -> None:
    for step in steps:
        row = {"step": step, "reward/mean": step / 2, "note": "text", "flag": True}
        folder.append_metrics(row)
        opened.log(row)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_each_step_once_over_a_kill_and_a_resume(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    fake = Fake(monkeypatch, name)
    first = trackers.open_trackers([name], folder, run_name="quick", config={"seed": 1})
    run_steps(folder, first, range(6))  # killed here, without close
    folder.drop_metrics_after(4)
    second = trackers.open_trackers([name], folder, run_name="quick", config={"seed": 1}, resumed_step=4)
    run_steps(folder, second, range(5, 8))
    second.close()
    assert [step for step, _ in fake.logged] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert fake.logged[2][1] == {"reward/mean": 1.0}
    assert fake.finished == 1
    identity = "id" if name == "wandb" else "name"
    assert fake.started[0][identity] == fake.started[1][identity]
    assert fake.started[1]["resume"] == "allow"
    assert "hello" not in capsys.readouterr().out


def test_a_tracker_that_missed_steps_catches_up(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, notes = Fake(monkeypatch, "wandb"), []
    first = trackers.open_trackers(["wandb"], folder, run_name="q", config={}, note=notes.append)
    run_steps(folder, first, range(2))
    fake.broken = True
    run_steps(folder, first, range(2, 5))
    assert first.names == []
    assert len(notes) == 1
    assert "network gone" in notes[0]
    fake.broken = False
    trackers.open_trackers(["wandb"], folder, run_name="q", config={}, resumed_step=4)
    assert [step for step, _ in fake.logged] == [0, 1, 2, 3, 4]


def test_wandb_gets_its_folder_and_mode(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, "wandb")
    trackers.open_trackers(["wandb"], folder, run_name="quick", config={"seed": 1})
    options = fake.started[0]
    assert options["mode"] == "offline"
    assert options["dir"] == str(folder.path / "trackers")
    assert options["config"] == {"seed": 1}


@pytest.mark.parametrize(
    ("environment", "reachable", "mode"),
    [
        ({}, True, "offline"),
        ({"WANDB_API_KEY": "k"}, True, "online"),
        ({"WANDB_API_KEY": "k"}, False, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, True, "disabled"),
    ],
)
def test_wandb_mode(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reachable: bool, mode: str) -> None:
    monkeypatch.setattr(trackers, "_reachable", lambda host, port: reachable)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert trackers.wandb_mode() == mode


def test_wandb_key_in_netrc_and_own_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def reachable(host: str, port: int) -> bool:
        asked.append((host, port))
        return True

    monkeypatch.setattr(trackers, "_reachable", reachable)
    (tmp_path / "netrc").write_text("machine wandb.example login user password k\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert trackers.wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "http://wandb.example:8080")
    assert trackers.wandb_mode() == "online"
    assert asked == [("wandb.example", 8080)]


def test_a_missing_package_is_named_with_its_command(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install trackio.*'\.\[trackers\]'.*trackers=\[\]"):
        trackers.check_trackers(["trackio"])


def test_an_unknown_tracker() -> None:
    with pytest.raises(UsageError, match="tensorboard, wandb, trackio"):
        trackers.check_trackers(["mlflow"])


def test_a_tracker_that_cannot_start(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(monkeypatch, "wandb")

    def init(**options: Any) -> None:
        raise RuntimeError("bad key")

    vars(sys.modules["wandb"])["init"] = init
    with pytest.raises(UsageError, match="bad key"):
        trackers.open_trackers(["wandb"], folder, run_name="q", config={})
    assert fake.logged == []


def test_tensorboard_shows_each_step_once(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = trackers.open_trackers(["tensorboard"], folder, run_name="q", config={})
    run_steps(folder, first, range(6))  # no close: a kill
    folder.drop_metrics_after(3)
    second = trackers.open_trackers(["tensorboard"], folder, run_name="q", config={}, resumed_step=3)
    run_steps(folder, second, range(4, 8))
    accumulator = EventAccumulator(str(folder.path / "trackers" / "tensorboard"))
    accumulator.Reload()
    events = accumulator.Scalars("reward/mean")
    assert [(event.step, event.value) for event in events] == [(step, step / 2) for step in range(8)]
    second.close()
