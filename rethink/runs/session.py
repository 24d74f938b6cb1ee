"""What runs of every kind share: their folder, how they stop, and the head of their summary."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError, UsageError
from rethink.kernels.native import library as kernels
from rethink.machine.limits import peak_rss_mb
from rethink.observe.progress import Progress
from rethink.observe.report import write_report
from rethink.recipe.base import AnyRecipe
from rethink.recipe.identity import recipe_hash, resume_differences
from rethink.recipe.recipe_files import parse_recipe, recipe_to_yaml
from rethink.runs.inputs import check_inputs, inputs_of
from rethink.store.environment import environment
from rethink.store.run_folder import RunFolder
from rethink.terminal import stop_on_interrupt

SHOWN_DIFFERENCES = 4
STOPPING = "Finishing this step, then saving. Press Ctrl-C again to stop at once."


def open_run(
    recipe: AnyRecipe,
    out: Path,
    *,
    resume: bool,
    steps: int,
    choices: Callable[[], dict[str, Any]],
    also: Mapping[str, str] | None = None,
) -> RunFolder:
    """The run's folder: created, or reopened where `resume` allows it.

    Args:
        recipe: of any kind.
        out: the folder.
        resume: whether a run that is there may go on.
        steps: of the whole run.
        choices: makes what is decided once, at start; not called on resume.
        also: hashes of what the run reads beside the files, models and functions that its recipe names.

    Raises:
        RunFolderError: the folder holds a run and `resume` is not given, or holds a run of another recipe, or what the
            run reads has changed.
    """
    if not RunFolder.exists(out):
        return RunFolder.create(
            out,
            recipe_yaml=recipe_to_yaml(recipe),
            recipe_hash=recipe_hash(recipe),
            environment=environment(),
            choices=choices(),
            inputs=inputs_of(recipe) | dict(also or {}),
        )
    folder = RunFolder.open(out)
    old = parse_recipe(folder.recipe_yaml, f"the recipe in {out}")
    done = max((int(row["step"]) for row in folder.metrics()), default=0)
    differences = resume_differences(old, recipe)
    if not resume or differences:
        raise RunFolderError(_occupied(folder, old, done, differences))
    check_inputs(folder, recipe, inputs_of(recipe) | dict(also or {}))
    if steps < done:
        raise RunFolderError(
            f"`{out}` has already done {done} steps and the recipe asks for {steps}; give steps={done} or more "
            "to go on, or another --out to start anew"
        )
    if recipe_to_yaml(recipe) != folder.recipe_yaml:
        folder.extend(recipe_to_yaml(recipe), recipe_hash(recipe))
    folder.write_recipe()
    return folder


def _occupied(folder: RunFolder, old: AnyRecipe, done: int, differences: list[str]) -> str:
    out, total = folder.path, getattr(old, "steps", None)
    summary = folder.read_summary() or {}
    finished = done >= total if total is not None else bool(summary.get("finished"))
    progress = f"{done} steps done" if total is None else f"{done} of {total} steps done"
    state = f"`{out}` holds a run of the recipe `{old.name}` ({progress})"
    anew = f"start anew with another --out, or remove `{out}` first"
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        listed = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        return f"{state}, which differs from this one: {listed}. Undo these to go on with --resume, or {anew}."
    epochs = getattr(old, "epochs", None)
    if finished and total is None and isinstance(epochs, float):
        return f"{state}: it is finished. Extend it with epochs={2 * epochs:g} and --resume, or {anew}."
    if finished and total is not None:
        return f"{state}: it is finished. Extend it with steps={2 * total} and --resume, or {anew}."
    if total is None:
        return f"{state}. Go on with --resume, or {anew}."
    return f"{state}. Go on with --resume, extend it with steps=… and --resume, or {anew}."


def earlier_seconds(folder: RunFolder) -> float:
    """Seconds of the steps done before a resume, from their rows."""
    rows = folder.metrics()
    return sum(float(row.get("time/step", row.get("time/evaluation", 0.0))) for row in rows)


def summary_of(recipe: AnyRecipe, folder: RunFolder, wall_s: float, finished: bool) -> dict[str, Any]:
    """What the summary of every kind begins with."""
    return {
        "recipe": recipe.name,
        "kind": recipe.kind,
        "recipe_hash": folder.recipe_hash,
        "finished": finished,
        "wall_s": wall_s,
        # A resumed run is several processes: the highest of them.
        "peak_rss_mb": max([peak_rss_mb(), *(row.get("memory/peak_rss_mb", 0) for row in folder.metrics())]),
        "choices": folder.choices,
    }


def report_if_readable(folder: RunFolder, progress: Progress) -> None:
    """Render the run's report; where a file that it reads is damaged, say so: the run itself is done."""
    try:
        write_report(folder)
    except RunFolderError as error:
        progress.note(f"No report was written: {error}")


@contextlib.contextmanager
def at_work(folder: RunFolder, progress: Progress) -> Iterator[Callable[[], bool]]:
    """Hold the run's lock, and tell whether Ctrl-C asks to stop. A run that turns out to be impossible before its first
    row leaves the folder that was made for it free; one that goes on with other kernels says so.
    """
    with folder.lock(), stop_on_interrupt(lambda: progress.note(STOPPING)) as stop_requested:
        begun, now = folder.choices.get("kernels"), kernels.status().level
        if begun not in (None, now):
            progress.note(
                f"This run began with the {begun} kernels and goes on with the {now} ones: it will not be "
                "bit-identical to an uninterrupted run."
            )
        try:
            yield stop_requested
        except UsageError:
            folder.discard()
            raise
