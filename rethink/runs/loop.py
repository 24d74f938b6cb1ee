"""The loop that every kind of training shares: steps, evaluations, checkpoints, and what stands around them.

    folder ─► assembled run ─► step · evaluation where due · checkpoint where due ─► summary · model · report

A kind brings what one step is, what is measured, and what a checkpoint holds (`Loop`); the rest is here once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rethink.errors import RankLost
from rethink.machine.limits import peak_rss_mb
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers, open_trackers
from rethink.recipe.base import TrainingRecipe
from rethink.runs.checkpoint import TrainState
from rethink.runs.optimizer import Optimizer
from rethink.runs.session import at_work, earlier_seconds, report_if_readable
from rethink.store.as_trained import as_trained
from rethink.store.run_folder import RunFolder

Row = dict[str, float]
"""Metrics of a step, by name."""


class Training(Protocol):
    """What a run of every kind of training holds."""

    folder: RunFolder
    optimizer: Optimizer
    progress: Progress
    state: TrainState
    trackers: Trackers

    @property
    def recipe(self) -> TrainingRecipe: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102


R = TypeVar("R", bound=Training)


@dataclass(frozen=True, slots=True)
class Loop(Generic[R]):
    """What a kind of training brings."""

    step: Callable[[R], Row]
    """One update; returns its metrics."""
    evaluate: Callable[[R], Row]
    """The held-out evaluation of the current model; returns its metrics."""
    holds_out: Callable[[R], bool]
    """Whether there is anything to evaluate on."""
    write: Callable[[R, Path], None]
    """Writes a recovery checkpoint into an empty folder."""
    summarise: Callable[[R, float, bool], dict[str, Any]]
    """`(run, wall seconds, finished)`: what `summary.json` says."""
    export: Callable[[R, dict[str, Any], Path], None]
    """`(run, summary, empty folder)`: writes the model of a finished run."""
    close: Callable[[R], None] = lambda run: None
    """Lets go of what the run holds beside trackers and ranks, however it ended."""


def run_training(
    folder: RunFolder, progress: Progress, assemble: Callable[[], R], loop: Loop[R], started: float
) -> dict[str, Any]:
    """Train in a run's folder until the last step or Ctrl-C, and return the summary.

    Args:
        folder: of the run.
        progress: where to show what happens.
        assemble: builds every part, and puts a resumed run's state into them.
        loop: of the kind.
        started: `time.perf_counter()` at the start of the run.
    """
    with at_work(folder, progress) as stop_requested:
        run = assemble()
        progress.start(run.steps, run.state.step)
        earlier = earlier_seconds(folder)
        try:
            train_until_done(run, loop, stop_requested)
        except RankLost as error:
            progress.note(f"{error}.")  # at once: what the run holds may take long to end
            raise
        finally:
            run.trackers.close()
            run.optimizer.ranks.close()
            loop.close(run)
        finished = run.state.step >= run.steps
        summary = loop.summarise(run, earlier + time.perf_counter() - started, finished)
        if finished:  # the model first: a summary that says `finished` says that the model is there
            record = as_trained(run.recipe, folder.recipe_hash)
            folder.export_model(lambda path: loop.export(run, summary, path), record)
        folder.write_summary(summary)
        report_if_readable(folder, progress)
        if not finished:
            progress.note(
                f"Stopped after step {run.state.step} of {run.steps}; everything is saved. Go on with the same command "
                "and --resume."
            )
        progress.close()
    return summary


def train_until_done(run: R, loop: Loop[R], stop_requested: Callable[[], bool]) -> None:
    """Step until the last step or until a stop is requested; a checkpoint of the last step is there then."""
    if run.state.step == 0 and not run.folder.metrics():
        record(run, {"step": 0} | (loop.evaluate(run) if loop.holds_out(run) else {}))
    saved, saving = run.state.step, 0.0
    while run.state.step < run.steps and not stop_requested():
        started = time.perf_counter()
        row = loop.step(run)
        if loop.holds_out(run) and evaluation_due(run):
            row |= loop.evaluate(run)
        row["time/step"] = time.perf_counter() - started
        row["memory/peak_rss_mb"] = peak_rss_mb()
        if saving:  # a step's own row is written before its checkpoint
            row["time/checkpoint"] = saving
        record(run, row)
        run.progress.step(row)
        started, saving = time.perf_counter(), 0.0
        if run.state.step % run.recipe.checkpoint.every == 0:
            saved = save(run, loop)
            saving = time.perf_counter() - started
    if saved != run.state.step:
        save(run, loop)


def record(run: Training, row: Row) -> None:
    """A step's row into the run's folder and the trackers."""
    run.folder.append_metrics(row)
    run.trackers.log(row)


def evaluation_due(run: Training) -> bool:
    """In between where the recipe says so, and always at the end."""
    every = run.recipe.evaluation.every
    return run.state.step == run.steps or (every is not None and run.state.step % every == 0)


def save(run: R, loop: Loop[R]) -> int:
    """A recovery checkpoint of this very step; returns the step."""
    run.progress.phase("checkpoint")
    run.folder.save_checkpoint(run.state.step, lambda folder: loop.write(run, folder), keep=run.recipe.checkpoint.keep)
    return run.state.step


def trackers_of(run: Training) -> Trackers:
    """The trackers that the recipe names, opened at the step that the run goes on from."""
    return open_trackers(
        run.recipe.trackers,
        run.folder,
        run_name=run.recipe.name,
        config=run.recipe.model_dump(mode="json"),
        resumed_step=run.state.step,
        note=run.progress.note,
    )
