"""`rethink status`: how far a pipeline is, and where a sample or a model comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rethink.errors import RethinkError, RunFolderError, TaskError, UsageError
from rethink.kinds.pipeline.disk import cleanings
from rethink.store.cluster_log import losses
from rethink.store.completeness import lost_parts
from rethink.store.contents import check_contents
from rethink.store.integrity import check_hash
from rethink.store.jsonl import read_jsonl
from rethink.store.pipeline_folder import HASH_SHOWN, PipelineFolder, StageRecord, disk_bytes
from rethink.store.run_folder import RunFolder

SAMPLE_FILES = ("samples.jsonl", "train.jsonl")


def status(folder: PipelineFolder) -> dict[str, Any]:
    """Stages with state, progress, time and disk; results; what `rethink clean` would free."""
    records, strays = folder.records(), {path.name: path for path in folder.stray_folders()}
    stages = []
    for name, entry in folder.stages.items():
        record = records.get(entry["hash"])
        looked = _looked(None if record is None else folder.stage_path(record))
        if record is None and (stray := strays.get(f"{name}-{entry['hash'][:HASH_SHOWN]}")) is not None:
            looked["damage"] = [f"`{stray}.json`, the stage's record, is lost: the stage is run again."]
        stages.append(
            {
                "name": name,
                "kind": entry["kind"],
                "state": _state(record),
                **looked,
                "seconds": 0.0 if record is None else record.seconds,
                "attempts": 0 if record is None else record.attempts,
                "error": None if record is None else record.error,
                "disk_bytes": 0 if record is None else disk_bytes(folder.stage_path(record)),
                "hash": entry["hash"],
                "folder": None if record is None else str(folder.stage_path(record)),
                "inputs": entry.get("inputs", []),
            }
        )
    summary = folder.read_results("summary") or {}
    return {
        "folder": str(folder.path),
        **folder.facts,
        "complete": all(stage["state"] == "done" for stage in stages),
        "disk_bytes": disk_bytes(folder.path),
        "cleanable_bytes": sum(item.size for item in cleanings(folder)),
        "stages": stages,
        "results": summary.get("results", {}),
        "lost": losses(folder.path),
    }


def _state(record: StageRecord | None) -> str:
    """`waiting`, `interrupted` (or running in another process), `failed` or `done`."""
    if record is None:
        return "waiting"
    return "interrupted" if record.state == "running" else record.state


def _looked(path: Path | None) -> dict[str, Any]:
    """`steps` done, of a stage that counts some; `damage`: what is lost or damaged, a sentence each."""
    if path is None or not RunFolder.exists(path):
        return {"steps": None, "damage": []}
    try:
        run = RunFolder.open(path)
        rows, damage = run.metrics(), lost_parts(run)
        _check_files(run)
    except RethinkError as error:
        return {"steps": None, "damage": [str(error)]}
    return {"steps": max((int(row["step"]) for row in rows), default=0) if rows else None, "damage": damage}


def check_done(folder: PipelineFolder, record: StageRecord) -> list[str]:
    """See whether the output of a stage that is done is what it wrote; returns a sentence for what else is lost.

    Its `recipe.yaml`, a copy for readers, is written again where it was changed.

    Raises:
        RunFolderError: names the file that is damaged or missing.
    """
    path = folder.stage_path(record)
    try:
        run = RunFolder.open(path)
        _check_files(run)
        run.write_recipe()
        return [f"The stage `{record.name}`: {sentence}" for sentence in lost_parts(run)]
    except RunFolderError as error:
        raise RunFolderError(
            f"{error} The stage `{record.name}` is done, and others may use what it wrote. To make it again, remove "
            f"`{path}` and `{path.name}.json` beside it, and give the same command."
        ) from error


def _check_files(run: RunFolder) -> None:
    for folder in (run.path, run.model_path, run.best_path):
        check_contents(folder)


# --- lineage ------------------------------------------------------------------------------------------------------


def lineage(folder: PipelineFolder, wanted: str) -> dict[str, Any]:
    """Where something comes from: the stage that made it and all stages before that, with recipe, seed and commit.

    Args:
        folder: the pipeline.
        wanted: a stage's name, a path in the pipeline's folder (a model, a file), the id of a sample, or the id of a
            held-out problem.

    Raises:
        UsageError: nothing of that name is there.
    """
    records = folder.records()
    record = _stage_of(folder, records, wanted)
    sample = None
    if record is None:
        found = next(_samples(folder, records, wanted), None)
        if found is None:
            raise UsageError(
                f"`{wanted}` is no stage of `{folder.path}`, no path in it, and no id of a sample or problem there. "
                f"Stages: {', '.join(folder.stages)}; ids stand in samples.jsonl of a stage of the kind `samples`"
            )
        record, sample = found
    return {
        "wanted": wanted,
        "sample": sample,
        "made_by": _told(folder, record),
        "from": _before(folder, records, record),
    }


def _stage_of(folder: PipelineFolder, records: Mapping[str, StageRecord], wanted: str) -> StageRecord | None:
    entry = folder.stages.get(wanted)
    if entry is not None and entry["hash"] in records:
        return records[entry["hash"]]
    try:
        inside = Path(wanted).resolve().relative_to(folder.path.resolve() / "stages")
    except (ValueError, OSError):
        inside = None
    for record in records.values():
        if record.hash.startswith(wanted) and len(wanted) >= 8:
            return record
        if inside is not None and inside.parts and inside.parts[0] == record.folder_name:
            return record
    return None


def _samples(
    folder: PipelineFolder, records: Mapping[str, StageRecord], wanted: str
) -> Iterator[tuple[StageRecord, dict[str, Any]]]:
    """Stages that hold a sample or a held-out problem of that id, with the sample."""
    for record in records.values():
        path = folder.stage_path(record)
        for name in SAMPLE_FILES:
            if (path / name).is_file():
                yield from ((record, row) for row in _rows(path / name) if row.get("id") == wanted)
        if RunFolder.exists(path):
            run = RunFolder.open(path)
            for name in run.samples():
                yield from (
                    (record, {key: value for key, value in row.items() if key != "token_ids"})
                    for row in run.read_samples(name) or []
                    if row.get("problem_id") == wanted
                )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Raises `RunFolderError` where the file is damaged, `TaskError` where it holds no rows."""
    check_hash(path)
    for where, row in read_jsonl(path, "the file", "restore it"):
        if not isinstance(row, dict):
            raise TaskError(f"{where}, is {type(row).__name__}, not a sample: restore the file")
        yield row


def _told(folder: PipelineFolder, record: StageRecord) -> dict[str, Any]:
    known = asdict(record)
    return {
        "stage": record.name,
        "kind": record.kind,
        "hash": record.hash,
        "version": record.version,
        "seed": record.seed,
        "commit": record.commit,
        "state": record.state,
        "started": record.started,
        "ended": record.ended,
        "folder": str(folder.stage_path(record)),
        "inputs": known["inputs"],
        "recipe": record.recipe_yaml,
    }


def _before(folder: PipelineFolder, records: Mapping[str, StageRecord], record: StageRecord) -> list[dict[str, Any]]:
    """Everything upstream, nearest first, each once."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(record.inputs.values())
    while waiting:
        value = waiting.pop(0)
        if value in records and value not in found:
            found[value] = _told(folder, records[value])
            waiting += records[value].inputs.values()
    return list(found.values())
