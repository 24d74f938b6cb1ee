"""What a pipeline takes on disk, and how it is kept bounded.

While a stage trains it holds its recovery checkpoints; when it is done they go, since a stage is never extended (a
changed one is another stage). So at any time there are the models and samples of the stages that are done, and the
checkpoints of one stage.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rethink.errors import RethinkError, StorageFailure
from rethink.recipe.base import AnyRecipe
from rethink.recipe.kind import kind_named
from rethink.store.atomic import clean_leftovers, remove_folder
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.pipeline_folder import PipelineFolder, StageRecord, disk_bytes

MODEL_BYTES = 4
"""Most bytes a parameter of an exported model (fp32; 2 where it is bf16)."""
STATE_BYTES = 12
"""Bytes a parameter in a checkpoint: fp32 weights and two moments."""


def disk_of(recipe: AnyRecipe, parameters: int) -> tuple[int, int]:
    """(most bytes while a stage runs, bytes that stay), for a model of so many parameters; samples come on top."""
    kind = kind_named(recipe.kind)
    if not kind.trains:
        return 0, 0
    models, beside = kind.load("keeps")(recipe) if kind.keeps else (1, 0)
    section = getattr(recipe, "checkpoint", None)
    checkpoints = 1 + (section.keep if section is not None else 0)  # a new one is written before the oldest goes
    stays = models * MODEL_BYTES * parameters
    return stays + checkpoints * (STATE_BYTES + beside) * parameters, stays


def check_space(path: Path, recipe: AnyRecipe, stage: str) -> None:
    """Refuse to begin a stage that will not fit on the disk.

    Raises:
        StorageFailure: says how much it takes and how much is free.
    """
    from rethink.model.loading import load_model
    from rethink.plan.estimate import count_parameters, shape_of

    model = getattr(recipe, "model", None)
    if not kind_named(recipe.kind).trains or model is None:
        return
    try:
        config = load_model(model, headers_only=True).config
    except RethinkError:
        return  # the stage itself says what is wrong with its model
    if config is None:
        return
    needed = disk_of(recipe, count_parameters(shape_of(config)).total)[0]
    free = shutil.disk_usage(path).free
    if needed > free:
        raise StorageFailure(
            f"the stage `{stage}` takes up to {needed / 1e9:.1f} GB in `{path}` while it runs, where {free / 1e9:.1f} "
            "GB are free. What is done is kept. Free some space (`rethink clean` removes what is no longer used), or "
            "lower checkpoint.keep; then give the same command again"
        )


def drop_checkpoints(folder: PipelineFolder, record: StageRecord) -> None:
    """Remove the recovery checkpoints of a stage that is done, and what a kill in the midst of that left."""
    path = folder.stage_path(record)
    clean_leftovers(path)
    if (path / "checkpoints").is_dir():
        remove_folder(path / "checkpoints")


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What `rethink clean` removes."""

    path: Path
    reason: str
    size: int
    """Bytes."""
    record: StageRecord | None = None
    """Where it is a whole stage."""


def cleanings(folder: PipelineFolder) -> list[Cleaning]:
    """What is no longer of use: stages that the last recipe has no more, folders without a record, checkpoints of
    stages that are done.
    """
    used = {str(entry["hash"]) for entry in folder.stages.values()}
    found = []
    for record in folder.records().values():
        path = folder.stage_path(record)
        if record.hash not in used:
            found.append(Cleaning(path, "not a stage of the last recipe", disk_bytes(path), record))
        elif record.state == "done" and (path / "checkpoints").is_dir():
            checkpoints = path / "checkpoints"
            found.append(Cleaning(checkpoints, "checkpoints of a stage that is done", disk_bytes(checkpoints)))
    found += [Cleaning(path, "a folder without a record", disk_bytes(path)) for path in folder.stray_folders()]
    return found


def clean(folder: PipelineFolder) -> list[Cleaning]:
    """Remove it all; returns what was removed. For the holder of the folder's lock."""
    found = cleanings(folder)
    for item in found:
        if item.record is not None:
            folder.remove_stage(item.record)
        else:
            remove_folder(item.path)
    return found


def follow_move(folder: PipelineFolder) -> None:
    """After the pipeline's folder was moved: let stages that were begun know where their inputs are now."""
    old, new = folder.root, str(folder.path.resolve())
    if old is None or old == new:
        return
    for record in folder.records().values():
        path = folder.stage_path(record) / "run.json"
        if record.state == "done" or not path.is_file():
            continue
        header = read_sealed(path) or {}
        text = str(header.get("recipe_yaml", ""))
        if f"{old}/" in text:
            write_sealed(path, header | {"recipe_yaml": text.replace(f"{old}/", f"{new}/")})
