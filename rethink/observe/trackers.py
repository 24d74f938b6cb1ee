"""Trackers beside the run's folder: TensorBoard, Weights & Biases, trackio (extra `trackers`).

The run's own `metrics.jsonl` is the truth; a tracker is a copy. So a tracker that fails mid-run is switched off with a
note, and catches up from `metrics.jsonl` when the run is resumed. No step is logged twice on resume: TensorBoard's
files are written again from `metrics.jsonl`; for the others the last step that was handed over is kept in
`trackers/<name>.json`, and the step number goes along with every row.
"""

from __future__ import annotations

import importlib.util
import json
import netrc
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from rethink.errors import UsageError, how_to_install
from rethink.store.atomic import write_json
from rethink.store.run_folder import RunFolder

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name in a recipe → package that it needs."""


class Tracker(Protocol):
    """One place where metrics go."""

    name: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step."""

    def close(self) -> None:
        """Hand everything over."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UsageError` when a tracker is unknown or its package is missing. Imports nothing; call it first."""
    for name in names:
        if name not in PACKAGES:
            raise UsageError(f"there is no tracker `{name}`; allowed are: {', '.join(PACKAGES)}. Correct `trackers`.")
        if name not in sys.modules and importlib.util.find_spec(PACKAGES[name]) is None:
            raise UsageError(
                f"the recipe asks for the tracker `{name}`, and its package is not installed. Install it with "
                f"`pip install {PACKAGES[name]}` (or all trackers with {how_to_install('trackers')}), or leave it "
                "out with `trackers=[]`: the run's folder keeps every metric in any case."
            )


class Trackers:
    """All trackers of a run. Failures stay here: a tracker that fails is dropped with a note."""

    def __init__(self, trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._note = note

    @property
    def names(self) -> list[str]:
        """Trackers that still take metrics."""
        return [tracker.name for tracker in self._trackers]

    def log(self, row: Mapping[str, Any]) -> None:
        """Hand a row of metrics to every tracker."""
        step = int(row["step"])
        values = {name: float(v) for name, v in row.items() if name != "step" and _is_number(v)}
        for tracker in list(self._trackers):
            self._guard(tracker, lambda tracker=tracker: tracker.log(step, values))  # type: ignore[misc]

    def close(self) -> None:
        """Close every tracker."""
        for tracker in list(self._trackers):
            self._guard(tracker, tracker.close)

    def _guard(self, tracker: Tracker, call: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # their greetings must not mix with results on stdout
                call()
        except Exception as error:
            self._trackers.remove(tracker)
            self._note(
                f"The tracker {tracker.name} failed ({type(error).__name__}: {error}) and is off for the rest of this "
                "process. No metric is lost: they are in metrics.jsonl."
            )


def open_trackers(
    names: Sequence[str],
    folder: RunFolder,
    *,
    run_name: str,
    config: Mapping[str, Any],
    resumed_step: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> Trackers:
    """Open the trackers of a recipe. `resumed_step`: the checkpoint's step, 0 for a new run.

    Raises `UsageError` when a package is missing or a tracker cannot start. Rows of `metrics.jsonl` up to
    `resumed_step` that a tracker has not seen are handed over now.
    """
    check_trackers(names)
    opened: list[Tracker] = []
    for name in names:
        try:
            with redirect_stdout(sys.stderr):
                opened.append(_OPENERS[name](folder, run_name, config, resumed_step))
        except Exception as error:
            raise UsageError(
                f"the tracker `{name}` could not start ({type(error).__name__}: {error}). Fix the cause, or leave "
                "the tracker out with `trackers=[]`: the run's folder keeps every metric in any case."
            ) from error
    trackers = Trackers(opened, note)
    for row in folder.metrics():
        if row["step"] <= resumed_step:
            trackers.log(row)
    return trackers


class _TensorBoard:
    """Event files in `<run>/trackers/tensorboard`."""

    name = "tensorboard"

    def __init__(self, folder: RunFolder, run_name: str, config: Mapping[str, Any], resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder.path / "trackers" / "tensorboard"
        # All rows up to the resumed step are handed over again by `open_trackers`, so the earlier files may go: an
        # event file that a kill cut short, or that holds steps which are now repeated, would show points twice.
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(log_dir=str(place))
        self._writer.add_text("recipe", "```yaml\n" + folder.recipe_yaml + "\n```", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _LastStep:
    """Remembers across kills which step was handed over last."""

    def __init__(self, folder: RunFolder, name: str) -> None:
        self._path = folder.path / "trackers" / f"{name}.json"
        self._path.parent.mkdir(exist_ok=True)
        self.state: dict[str, Any] = {"last_step": -1}
        with suppress(FileNotFoundError, ValueError):
            self.state = json.loads(self._path.read_text())

    def is_new(self, step: int) -> bool:
        return step > int(self.state["last_step"])

    def set(self, step: int) -> None:
        self.state["last_step"] = step
        write_json(self._path, self.state)


class _Wandb:
    """Weights & Biases: offline (`<run>/trackers/wandb`, for `wandb sync`) unless there is a key and a network."""

    name = "wandb"

    def __init__(self, folder: RunFolder, run_name: str, config: Mapping[str, Any], resumed_step: int) -> None:
        import wandb

        self._last = _LastStep(folder, self.name)
        run_id = self._last.state.setdefault("id", os.urandom(4).hex())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rethink"),
            name=run_name,
            id=run_id,
            resume="allow",
            mode=wandb_mode(),
            dir=str(folder.path / "trackers"),
            config=dict(config),
            settings=wandb.Settings(console="off"),  # it would copy every frame of the live view into its log
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._last.is_new(step):
            self._run.log(dict(values), step=step)
            self._last.set(step)

    def close(self) -> None:
        self._run.finish()


def wandb_mode() -> str:
    """`WANDB_MODE` where it is set; else `online` with a key and a reachable server, else `offline`."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return chosen
    server = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host, port = server.hostname or "api.wandb.ai", server.port or (443 if server.scheme == "https" else 80)
    return "online" if _has_key(host) and _reachable(host, port) else "offline"


def _has_key(host: str) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=3):
            return True
    except OSError:
        return False


class _Trackio:
    """trackio's local database (`TRACKIO_DIR` says where)."""

    name = "trackio"

    def __init__(self, folder: RunFolder, run_name: str, config: Mapping[str, Any], resumed_step: int) -> None:
        import trackio

        self._last = _LastStep(folder, self.name)
        name = self._last.state.setdefault("run", f"{run_name}-{os.urandom(3).hex()}")
        self._trackio = trackio
        trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "rethink"), name=name, config=dict(config), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._last.is_new(step):
            self._trackio.log(dict(values), step=step)
            self._last.set(step)

    def close(self) -> None:
        self._trackio.finish()


_OPENERS: dict[str, Callable[[RunFolder, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
