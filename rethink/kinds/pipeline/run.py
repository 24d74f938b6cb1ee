"""Running a pipeline: stage after stage, what is done and unchanged is skipped, what was begun goes on.

    recipe ─► stages in order ─► hashes ─► for each: done? skip : run its runner in its folder ─► record `done`
                                   evaluations ─► paired comparisons ─► report

A stage's runner resumes by itself, so a pipeline killed anywhere goes on inside the stage that was running. A stage
that fails leaves the others usable: those that do not need it still run, and the next run tries it again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rethink.errors import RethinkError, RunFailure, StorageFailure, UsageError
from rethink.kinds.pipeline.compare import write_comparisons
from rethink.kinds.pipeline.compute import computed
from rethink.kinds.pipeline.disk import check_space, drop_checkpoints, follow_move
from rethink.kinds.pipeline.graph import StageGraph
from rethink.kinds.pipeline.identity import stage_hashes
from rethink.kinds.pipeline.selection import Selection
from rethink.kinds.pipeline.stages import ResolvedStage, pipeline_of, resolve, substitute
from rethink.kinds.pipeline.status import check_done
from rethink.kinds.pipeline.view import Rows, StageProgress
from rethink.machine.allocator import return_free_memory
from rethink.observe.progress import Progress
from rethink.observe.report.pipeline import write_pipeline_report
from rethink.recipe.base import AnyRecipe
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import recipe_to_yaml
from rethink.rollout.engines import check_there, wanted_by
from rethink.store.environment import environment
from rethink.store.pipeline_folder import PipelineFolder, StageRecord, disk_bytes, now


@dataclass(slots=True)
class PipelineRun:
    """One run of a pipeline."""

    folder: PipelineFolder
    stages: Sequence[ResolvedStage]
    hashes: Mapping[str, str]
    chosen: set[str]
    progress: Progress
    rows: Rows
    records: dict[str, StageRecord]
    """By hash."""
    ran: list[str] = field(default_factory=list)
    """Stages that this run completed."""
    failed: dict[str, RethinkError] = field(default_factory=dict)

    def record(self, name: str) -> StageRecord | None:
        """The record of a stage; None where it never began."""
        return self.records.get(self.hashes[name])

    def done(self, name: str) -> bool:
        """Whether a stage's output is there."""
        record = self.record(name)
        return record is not None and record.state == "done"


def run_pipeline(
    recipe: AnyRecipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress,
    selection: Selection | None = None,
) -> dict[str, Any]:
    """Run a pipeline in the folder `out` and return its summary (also `summary.json`).

    Args:
        recipe: of a kind that is made of stages.
        out: a new folder, or that of an earlier run, of this recipe or of one before it was changed.
        resume: changes nothing: stages are found by what they do, so going on is never ambiguous.
        progress: where to show what happens.
        selection: a part of the graph; None: all of it.

    Raises:
        UsageError: the recipe, the folder or the selection does not allow the run, or a stage's engine cannot be had.
        RunFailure: a stage failed; the others are done, and the same command tries it again.
    """
    started = time.perf_counter()
    pipeline = pipeline_of(recipe)
    stages, wanted = resolve(pipeline), selection or Selection()
    chosen = wanted.names(stages)
    hashes = stage_hashes(stages)
    folder = PipelineFolder.open_to_run(out) or PipelineFolder.create(out, environment())
    with folder.lock():
        records = folder.records()
        done = {name for name, value in hashes.items() if value in records and records[value].state == "done"}
        wanted.check_inputs(stages, done)
        for stage in stages:
            if stage.name in chosen and stage.name not in done:
                check_there(wanted_by(stage.recipe))  # not hours later
        follow_move(folder)
        folder.update(recipe_to_yaml(recipe), _facts(pipeline), _entries(stages, hashes))
        rows = Rows.of(stages, done, chosen)
        run = PipelineRun(folder, stages, hashes, chosen, progress, rows, records)
        for record in [records[value] for value in dict.fromkeys(hashes.values()) if value in records]:
            if record.state == "done":
                for sentence in check_done(folder, record):
                    progress.note(sentence)
                drop_checkpoints(folder, record)
        progress.stages(rows.as_list())
        finished = _run_all(run)
        summary = _conclude(run, recipe.name, finished, time.perf_counter() - started)
        progress.close()
    if run.failed:
        raise _failure(run)
    return summary


def _run_all(run: PipelineRun) -> bool:
    """Every chosen stage in order; False where the user stopped it."""
    for stage in run.stages:
        if run.done(stage.name) or stage.name not in run.chosen:
            _note_twin(run, stage)
            continue
        missing = [name for name in stage.inputs if not run.done(name)]
        if missing:
            run.rows.set(stage.name, "waiting", f"needs {', '.join(missing)}")
            run.progress.stages(run.rows.as_list())
            continue
        try:
            if not _run_stage(run, stage):
                return False
        except StorageFailure:  # whatever comes next would meet the same full disk
            raise
        except RethinkError as error:
            run.failed[stage.name] = error
            run.rows.set(stage.name, "failed", str(error))
            run.progress.stages(run.rows.as_list())
        if kind_named(stage.kind).measures:
            write_comparisons(run.folder)
            write_pipeline_report(run.folder)
    return True


def _note_twin(run: PipelineRun, stage: ResolvedStage) -> None:
    """A stage that became done while others ran does the very same as one of them: it has that one's output."""
    if run.done(stage.name) and run.rows.state(stage.name) == "waiting":
        twin = next(name for name, value in run.hashes.items() if value == run.hashes[stage.name])
        run.rows.set(stage.name, "kept", f"the same as {twin}")
        run.progress.stages(run.rows.as_list())


def _run_stage(run: PipelineRun, stage: ResolvedStage) -> bool:
    """Run one stage to its end; False where the user stopped it."""
    folder = run.folder
    begun = run.record(stage.name) or _new_record(run, stage)
    record = folder.change(begun, state="running", error=None, attempts=begun.attempts + 1)
    out, recipe = folder.stage_path(record), located(run, stage)
    check_space(folder.path, recipe, stage.name)
    run.rows.set(stage.name, "running", "")
    run.progress.stages(run.rows.as_list())
    started = time.perf_counter()
    try:
        summary = runner(stage.kind)(recipe, out, resume=True, progress=StageProgress(run.progress))
    except Exception as error:
        seconds = record.seconds + time.perf_counter() - started
        folder.change(record, state="failed", error=f"{type(error).__name__}: {error}", seconds=seconds, ended=now())
        raise
    finally:
        gc.collect()
        return_free_memory()
    # An attempt that was killed left no time in the record; the stage's own summary counts its steps.
    seconds = max(record.seconds + time.perf_counter() - started, summary.get("wall_s", 0.0))
    if not summary.get("finished", True):
        run.records[record.hash] = folder.change(record, seconds=seconds)
        run.rows.set(stage.name, "stopped", "")
        return False
    kind = kind_named(stage.kind)
    elsewhere = kind.samples_elsewhere is not None and kind.load("samples_elsewhere")(recipe)
    model = None if elsewhere else getattr(recipe, "model", None)
    compute = computed(stage.kind, out, summary, getattr(model, "path", None))
    run.records[record.hash] = folder.change(record, state="done", seconds=seconds, ended=now(), compute=compute)
    drop_checkpoints(folder, record)
    run.ran.append(stage.name)
    run.rows.set(stage.name, "done", kind.load("said")(summary) if kind.said else "", seconds)
    run.progress.stages(run.rows.as_list())
    return True


def runner(kind: str) -> Callable[..., dict[str, Any]]:
    """The function that runs a stage of a kind."""
    found: Callable[..., dict[str, Any]] = kind_named(kind).load("run")
    return found


def _new_record(run: PipelineRun, stage: ResolvedStage) -> StageRecord:
    git = run.folder.environment.get("git")
    return StageRecord(
        name=stage.name,
        kind=stage.kind,
        hash=run.hashes[stage.name],
        version=kind_named(stage.kind).version,
        recipe_yaml=recipe_to_yaml(stage.recipe),
        inputs={name: run.hashes[name] for name in stage.inputs},
        seed=getattr(stage.recipe, "seed", None),
        commit=str(git.get("commit")) if isinstance(git, Mapping) else None if git is None else str(git),
        started=now(),
    )


def located(run: PipelineRun, stage: ResolvedStage) -> AnyRecipe:
    """The stage's recipe with the paths of its inputs in the place of references."""

    def path(name: str, output: str) -> str:
        record = run.record(name)
        assert record is not None
        kind = next(other.kind for other in run.stages if other.name == name)
        return str(run.folder.stage_path(record).resolve() / kind_named(kind).outputs[output])

    # `python` mode keeps what JSON has no word for (a step as the key of a mapping).
    data = substitute(stage.recipe.model_dump(), path)
    return kind_named(stage.kind).model.model_validate(data)


def _facts(recipe: StageGraph) -> dict[str, Any]:
    return {"name": recipe.name, "description": recipe.description, "seed": recipe.seed}


def _entries(stages: Sequence[ResolvedStage], hashes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {
        stage.name: {
            "kind": stage.kind,
            "hash": hashes[stage.name],
            "inputs": list(stage.inputs),
            "description": stage.description or stage.recipe.description,
            "evaluates": stage.evaluates,
            "distillation": None if stage.distillation is None else dict(stage.distillation),
        }
        for stage in stages
    }


def _conclude(run: PipelineRun, name: str, finished: bool, wall_s: float) -> dict[str, Any]:
    """Comparisons, summary and report; returns the summary."""
    complete = all(run.done(stage.name) for stage in run.stages)
    listed = []
    for stage in run.stages:
        record = run.record(stage.name)
        listed.append(
            {
                "name": stage.name,
                "kind": stage.kind,
                "state": run.rows.state(stage.name),
                "hash": run.hashes[stage.name],
                "seconds": 0.0 if record is None else record.seconds,
                "ran": stage.name in run.ran,
                "folder": None if record is None else str(run.folder.stage_path(record)),
            }
        )
    summary = {
        "recipe": name,
        "finished": finished and not run.failed and run.chosen <= {s.name for s in run.stages if run.done(s.name)},
        "complete": complete,
        "wall_s": wall_s,
        "stages_seconds": sum(entry["seconds"] for entry in listed if isinstance(entry["seconds"], float)),
        "disk_bytes": disk_bytes(run.folder.path),
        "stages": listed,
        "results": write_comparisons(run.folder),
    }
    run.folder.write_results("summary", summary)
    write_pipeline_report(run.folder)
    if not finished:
        run.progress.note("Stopped; everything is saved. Go on with the same command.")
    return summary


def _failure(run: PipelineRun) -> RethinkError:
    """What to say of the stages that failed, and of those that wait for them."""
    name, error = next(iter(run.failed.items()))
    more = "" if len(run.failed) == 1 else f" Failed too: {', '.join(f'`{n}`' for n in list(run.failed)[1:])}."
    waiting = [stage.name for stage in run.stages if run.rows.state(stage.name) == "waiting"]
    behind = f" These wait for it: {', '.join(f'`{n}`' for n in waiting)}." if waiting else ""
    kept = [stage.name for stage in run.stages if run.done(stage.name)]
    others = f" Done and kept: {', '.join(f'`{n}`' for n in kept)}." if kept else ""
    kind = UsageError if isinstance(error, UsageError) and not run.ran else RunFailure
    return kind(
        f"the stage `{name}` failed: {str(error).rstrip('.')}.{more}{behind}{others} Mend it and give the same "
        "command again."
    )
