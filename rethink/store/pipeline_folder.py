"""A pipeline's folder: a plain folder and a record for each stage, found again by the hash of what the stage does.

    pipeline.json                      what the folder is: recipe, seed, and which hash each stage has now
    recipe.yaml                        the resolved recipe, for readers
    environment.json                   versions, processor, git commit
    stages/<name>-<hash12>/            what the stage's runner wrote: a run's folder
    stages/<name>-<hash12>.json        its record: kind, hash, inputs, state, times, what it computed
    comparisons.json  summary.json     the results
    report.html                        rendered from all of the above

A record says `done` only after its stage's folder is whole. Nothing is ever written over: a changed stage has another
hash, hence another folder. Reading needs no lock; writing is for the process inside `with folder.lock():`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.store.atomic import clean_leftovers, keep_text, remove_folder, storage_errors
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.lock import LOCK, only_writer

FORMAT = 2
"""Raised when stages are found by other hashes than before."""
HASH_SHOWN = 12
HEADER = "pipeline.json"
_STARTUP_NAMES = {LOCK, "recipe.yaml", "environment.json"}


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is known of one stage."""

    name: str
    """When it was first run: its folder keeps this name."""
    kind: str
    hash: str
    """Of its resolved recipe, its inputs and its kind's version."""
    version: int
    """Of its kind's meaning."""
    recipe_yaml: str
    """Resolved; references to other stages as they were written."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Name of each stage used, and its hash."""
    seed: int | None = None
    commit: str | None = None
    """Of Rethink, when it was run; recorded, not hashed."""
    state: str = "running"
    """`running` (also: killed meanwhile), `done` or `failed`."""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    """Wall time of all attempts that ended."""
    attempts: int = 0
    error: str | None = None
    """Of the last attempt, where it failed."""
    compute: Mapping[str, float] = field(default_factory=dict)
    """Tokens and floating-point operations."""

    @property
    def folder_name(self) -> str:
        """Of the stage's folder, below `stages/`."""
        return f"{self.name}-{self.hash[:HASH_SHOWN]}"


class PipelineFolder:
    """A pipeline's folder. Make one with `create` or `open`."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._header = header

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether `path` holds a pipeline."""
        return os.path.isfile(Path(path) / HEADER)

    @classmethod
    def create(cls, path: Path, environment: Mapping[str, Any]) -> PipelineFolder:
        """Make a new one in `path`, which must be missing or empty.

        Raises:
            RunFolderError: something else is there.
            StorageFailure: the disk refuses.
        """
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"`{path}` is a file, but a pipeline needs a folder: choose another --out.")
        names = {entry.name for entry in path.iterdir() if ".tmp-" not in entry.name} if path.is_dir() else set()
        if names - _STARTUP_NAMES or (names and LOCK not in names):
            some = ", ".join(f"`{name}`" for name in sorted(names)[:3])
            raise RunFolderError(
                f"`{path}` is not empty and holds no pipeline (there is {some}, and no `{HEADER}`). Nothing in it was "
                f"touched: choose an empty or new folder with --out, or restore `{HEADER}` where there was one."
            )
        with storage_errors(path):
            (path / "stages").parent.mkdir(parents=True, exist_ok=True)
            folder = cls(path, {})
            with folder.lock():
                write_sealed(path / "environment.json", environment)
                header = {"format": FORMAT, "created": now(), "recipe_yaml": "", "stages": {}}
                write_sealed(path / HEADER, header)
        folder._header = header
        return folder

    @classmethod
    def open(cls, path: Path) -> PipelineFolder:
        """Open the pipeline in `path`.

        Raises:
            RunFolderError: there is none, or it cannot be read.
        """
        header = read_sealed(path / HEADER)
        if header is None:
            raise RunFolderError(
                f"`{path}` holds no pipeline: there is no `{HEADER}` in it. Give the folder that `rethink train` wrote "
                "a recipe of the kind `pipeline` or `distill` to (its --out, `runs/<name>` by default)."
            )
        if not isinstance(header.get("stages"), dict):
            raise RunFolderError(f"`{path / HEADER}` lacks `stages`, so it was changed: restore it from a copy.")
        if header.get("format", 0) > FORMAT:
            raise RunFolderError(f"`{path}` was written by a later version of Rethink. Update it.")
        return cls(path, header)

    @classmethod
    def open_to_run(cls, path: Path) -> PipelineFolder | None:
        """The pipeline in `path`, to run what is missing; None where there is none.

        Raises:
            RunFolderError: it cannot be read, or an earlier version found its stages by other hashes.
        """
        if not cls.exists(path):
            return None
        folder = cls.open(path)
        if folder._header.get("format", 0) < FORMAT:
            raise RunFolderError(
                f"`{path}` holds a pipeline that an earlier version of Rethink began. That version found stages by "
                "hashes which this one does not compute, so every stage would run again. Finish it with that version, "
                "or start anew with another --out."
            )
        return folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that writes here; sweeps up after a killed one first.

        Raises:
            RunFolderError: another process has it. A killed process's lock is gone with it.
        """
        with only_writer(self.path):
            with storage_errors(self.path):
                clean_leftovers(self.path)
                clean_leftovers(self.path / "stages")
            yield

    # -- what the pipeline is ----------------------------------------------------------------------------------------

    @property
    def recipe_yaml(self) -> str:
        """The recipe of the last run."""
        return str(self._header.get("recipe_yaml", ""))

    @property
    def facts(self) -> dict[str, Any]:
        """What `update` was given: name, description, seed."""
        return dict(self._header.get("facts") or {})

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages of the last run in order, by name: `hash`, `kind`, `evaluates`, `distillation`, …"""
        return dict(self._header["stages"])

    @property
    def environment(self) -> dict[str, Any]:
        """What the pipeline was started on."""
        return read_sealed(self.path / "environment.json") or {}

    def update(self, recipe_yaml: str, facts: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Record the recipe that is run now and the hashes of its stages."""
        header = self._header | {
            "recipe_yaml": recipe_yaml,
            "facts": dict(facts),
            "stages": {name: dict(entry) for name, entry in stages.items()},
            "root": str(self.path.resolve()),
        }
        if header != self._header:
            write_sealed(self.path / HEADER, header)
            self._header = header
        keep_text(self.path / "recipe.yaml", recipe_yaml)

    @property
    def root(self) -> str | None:
        """Where the folder was when it was last run; None before that."""
        root = self._header.get("root")
        return None if root is None else str(root)

    # -- stages ------------------------------------------------------------------------------------------------------

    def records(self) -> dict[str, StageRecord]:
        """Every record on disk, by hash, in the order of their start."""
        found = []
        folder = self.path / "stages"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            value = read_sealed(path)
            if value is not None and "hash" in value:
                known = {key: item for key, item in value.items() if key in StageRecord.__dataclass_fields__}
                found.append(StageRecord(**known))
        return {record.hash: record for record in sorted(found, key=lambda record: record.started)}

    def write_record(self, record: StageRecord) -> StageRecord:
        """Write a record, atomically; returns it."""
        path = self.path / "stages" / f"{record.folder_name}.json"
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
        write_sealed(path, asdict(record))
        return record

    def change(self, record: StageRecord, **values: Any) -> StageRecord:
        """Write a record with other values; returns it."""
        return self.write_record(replace(record, **values))

    def stage_path(self, record: StageRecord) -> Path:
        """The folder of a stage."""
        return self.path / "stages" / record.folder_name

    def remove_stage(self, record: StageRecord) -> None:
        """Remove a stage: its record first, so that a half-removed one never counts as done."""
        with storage_errors(self.path):
            (self.path / "stages" / f"{record.folder_name}.json").unlink(missing_ok=True)
            if self.stage_path(record).is_dir():
                remove_folder(self.stage_path(record))

    def stray_folders(self) -> list[Path]:
        """Folders below `stages/` without a record."""
        named = {record.folder_name for record in self.records().values()}
        folder = self.path / "stages"
        return [
            entry
            for entry in (sorted(folder.iterdir()) if folder.is_dir() else [])
            if entry.is_dir() and entry.name not in named and not entry.name.startswith(".")
        ]

    # -- results -----------------------------------------------------------------------------------------------------

    @property
    def report_path(self) -> Path:
        """Where the report is rendered to."""
        return self.path / "report.html"

    def write_results(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `<name>.json`: `summary`, `comparisons`."""
        write_sealed(self.path / f"{name}.json", value)

    def read_results(self, name: str) -> dict[str, Any] | None:
        """What `write_results` wrote, or None."""
        return read_sealed(self.path / f"{name}.json")


def now() -> str:
    """The time, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def disk_bytes(path: Path) -> int:
    """Bytes of the files below `path` (or of the file)."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # a file that is being replaced
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
