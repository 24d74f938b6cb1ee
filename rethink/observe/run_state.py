"""The state of runs and pipelines, read from their folders alone: for `rethink runs`, `status` and `compare`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import RethinkError, RunFolderError
from rethink.observe.number_text import TimeLeft, number
from rethink.recipe.kind import DEFAULT_KIND
from rethink.recipe.yaml_text import load_yaml
from rethink.store.lock import is_locked
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder

DEEPEST = 2
"""Levels below a folder at which runs are looked for: `runs/NAME` and `runs/GROUP/NAME`."""
SHOWN_METRICS = ("reward/mean", "train/loss", "eval/accuracy", "eval/loss")
"""Of the last row that has each."""


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is."""

    folder: str
    name: str
    """Of the recipe."""
    kind: str
    state: str
    """`running`, `finished`, `stopped`, or `damaged`."""
    done: int | None = None
    """Steps, or stages of a pipeline."""
    total: int | None = None
    """None: the data decide."""
    accuracy: tuple[float | None, float | None] = (None, None)
    """On the held-out problems, before and after."""
    metrics: Mapping[str, float] | None = None
    """The latest values of `SHOWN_METRICS`."""
    seconds: float = 0.0
    """Of the steps that are done."""
    left: float | None = None
    """Seconds; of a run that is going on."""
    recipe_hash: str = ""
    updated: str = ""
    """When the folder was last written to, UTC."""
    error: str | None = None
    """Why it cannot be read."""


def state_of(folder: Path) -> RunState:
    """The state of the run or pipeline in a folder; one that cannot be read is `damaged`.

    Raises:
        RunFolderError: there is neither.
    """
    if not RunFolder.exists(folder) and not PipelineFolder.exists(folder):
        raise RunFolderError(
            f"`{folder}` holds neither a run nor a pipeline: there is no `run.json` or `pipeline.json` in it. Give the "
            "folder that `rethink train` wrote to (its `--out`, `runs/<name>` by default); `rethink runs DIR` lists "
            "those below a folder."
        )
    try:
        return _pipeline(folder) if PipelineFolder.exists(folder) else _run(RunFolder.open(folder))
    except RethinkError as error:
        return RunState(str(folder), folder.name, "?", "damaged", updated=_updated(folder), error=str(error))


def runs_below(folder: Path) -> Iterator[RunState]:
    """The runs and pipelines in a folder and at most `DEEPEST` levels below it, by path. Stages are not listed.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunFolderError(f"there is no folder `{folder}`; give the one that holds your runs (`runs` by default)")
    yield from _below(folder, DEEPEST)


def _below(folder: Path, levels: int) -> Iterator[RunState]:
    if RunFolder.exists(folder) or PipelineFolder.exists(folder):
        yield state_of(folder)
    elif levels:
        for entry in sorted(_folders(folder)):
            yield from _below(entry, levels - 1)


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _run(folder: RunFolder) -> RunState:
    recipe, rows, summary = folder.recipe, folder.metrics(), folder.read_summary() or {}
    done = max((int(row["step"]) for row in rows), default=None)
    total = recipe.get("steps")
    total = int(total) if isinstance(total, int) else summary.get("steps") if summary.get("finished") else None
    finished = bool(summary.get("finished")) and (total is None or done is None or done >= total)
    state = "running" if is_locked(folder.path) else "finished" if finished else "stopped"
    left = TimeLeft()
    left.start(total or 0, done or 0)
    for row in rows:
        left.step(row)
    return RunState(
        folder=str(folder.path),
        name=str(recipe.get("name", folder.path.name)),
        kind=str(recipe.get("kind", DEFAULT_KIND)),
        state=state,
        done=done,
        total=total,
        accuracy=_accuracy(rows),
        metrics={name: value for name in SHOWN_METRICS if (value := _latest(rows, name)) is not None},
        seconds=sum(number(row, "time/step") or 0.0 for row in rows),
        left=left.seconds() if state == "running" and total is not None else None,
        recipe_hash=folder.recipe_hash,
        updated=_updated(folder.path),
    )


def _pipeline(path: Path) -> RunState:
    folder = PipelineFolder.open(path)
    records = folder.records()
    states = [record.state for entry in folder.stages.values() if (record := records.get(entry["hash"])) is not None]
    done = states.count("done")
    finished = bool(states) and done == len(folder.stages)
    return RunState(
        folder=str(path),
        name=str(folder.facts.get("name", path.name)),
        kind=str(load_yaml(folder.recipe_yaml).get("kind", "")) if folder.recipe_yaml else "",
        state="running" if is_locked(path) else "finished" if finished else "stopped",
        done=done,
        total=len(folder.stages),
        seconds=sum(record.seconds for record in records.values()),
        updated=_updated(path),
    )


def _accuracy(rows: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Held-out accuracy at step 0 and at the latest evaluation after it."""
    found = [(int(row["step"]), number(row, "eval/accuracy")) for row in rows if "eval/accuracy" in row]
    before = next((value for step, value in found if step == 0), None)
    after = next((value for step, value in reversed(found) if step > 0), None)
    return before, after


def _latest(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((value for row in reversed(rows) if (value := number(row, name)) is not None), None)


def _updated(folder: Path) -> str:
    times = [0.0]
    for name in ("metrics.jsonl", "run.json", "pipeline.json", "summary.json", "stages"):
        with suppress(OSError):
            times.append(os.stat(folder / name).st_mtime)
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(max(times))) if max(times) else ""
