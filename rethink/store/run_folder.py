"""One run, one folder. Everything in it is written atomically, by one process at a time, and read by everyone else.

    run.json             what the folder is: recipe, its hash, choices made at start (this file makes it a run)
    recipe.yaml          the resolved recipe, for readers
    environment.json     versions, processor, git commit
    metrics.jsonl        one row a step
    cluster.jsonl        workers of a cluster that were lost, and why; where any was
    rollouts/            batch-000001.parquet, …
    evaluations/         step-000000.parquet, …: samples of held-out problems
    checkpoints/         step-000010/, …: what a resumed run starts from
    model/  best/        exported models: the last and the best at a held-out evaluation
    summary.json         before, after, totals
    report.html          rendered from all of the above

Reading needs no lock. Writing is for the process inside `with folder.lock():`, which first sweeps what a killed
process left behind.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rethink.errors import RecipeError, RunFolderError
from rethink.recipe.yaml_text import load_yaml
from rethink.store import rollout_files
from rethink.store.atomic import (
    clean_leftovers,
    keep_text,
    remove_folder,
    storage_errors,
    write_folder,
    write_text,
)
from rethink.store.integrity import INDEX, read_sealed, write_index, write_sealed
from rethink.store.lock import LOCK, only_writer
from rethink.store.metrics_file import MetricsFile
from rethink.types import Rollout

if TYPE_CHECKING:  # models are loaded without recipes' packages, where `rethink gpu-check` runs
    from rethink.store.as_trained import AsTrained

FORMAT = 1
"""Version of the folder's layout; a reader refuses a later one."""
_STARTUP_NAMES = {LOCK, "recipe.yaml", "environment.json"}
_BATCH = re.compile(r"batch-(\d{6,})\.parquet")
_STEP = re.compile(r"step-(\d{6,})")


class RunFolder:
    """A run's folder. Make one with `create` or `open`."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self._header = header
        self._metrics = MetricsFile(path / "metrics.jsonl")
        self._new = False

    # -- making and opening ------------------------------------------------------------------------------------------

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether `path` holds a run."""
        return os.path.isfile(Path(path) / "run.json")  # unlike `Path.is_file`, no error for an impossible name

    @classmethod
    def create(
        cls,
        path: Path | str,
        *,
        recipe_yaml: str,
        recipe_hash: str,
        environment: Mapping[str, Any],
        choices: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
    ) -> RunFolder:
        """Make a new run in `path`, which must be missing or empty (or hold only an unfinished start).

        `choices`: what was decided at start and must hold on resume (dtype, threads, limits …). `inputs`: hashes of
        what the run reads. Raises `RunFolderError` when something is there or no folder can be there, `StorageFailure`
        when the disk refuses.
        """
        path = Path(path)
        try:
            _check_free(path)
            with storage_errors(path):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a part of the path is a file, a name is too long, …
            raise RunFolderError(
                f"the folder `{path}` cannot be made or read ({error.strerror}): choose another `--out`."
            ) from error
        header = {
            "format": FORMAT,
            "recipe_hash": recipe_hash,
            "recipe_yaml": recipe_yaml,
            "choices": dict(choices),
            "inputs": dict(inputs or {}),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        folder = cls(path, header)
        with folder.lock():
            _check_free(path)  # again: another process may have been faster
            write_text(path / "recipe.yaml", recipe_yaml)
            write_sealed(path / "environment.json", environment)
            write_sealed(path / "run.json", header)
        folder._new = True
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open the run in `path`. Raises `RunFolderError` when there is none or it cannot be read."""
        path = Path(path)
        header = read_sealed(path / "run.json")
        if header is None:
            raise RunFolderError(
                f"`{path}` holds no run: there is no `run.json` in it. Give the folder that a run wrote to (its "
                "`--out`, `runs/<name>` by default)."
            )
        if header.get("format", 0) > FORMAT:
            raise RunFolderError(
                f"`{path}` was written by a later version of Rethink (layout {header['format']}; this one reads up to "
                f"{FORMAT}). Update Rethink, or use another `--out`."
            )
        return cls(path, header)

    def discard(self) -> None:
        """Take back `create`, for a run that turned out to be impossible before its first row; else nothing is done.

        For the holder of the run's lock. A corrected recipe can then use the same folder.
        """
        if not self._new or set(_names(self.path)) - _STARTUP_NAMES - {"run.json"}:
            return
        with suppress(OSError):
            for name in ("run.json", *_STARTUP_NAMES):  # run.json first: without it the rest is an unfinished start
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def extend(self, recipe_yaml: str, recipe_hash: str) -> None:
        """Record that the run continues with another recipe (more steps); the earlier hashes stay in `run.json`."""
        earlier = [*self._header.get("earlier_recipe_hashes", []), self.recipe_hash]
        header = {
            **self._header,
            "recipe_yaml": recipe_yaml,
            "recipe_hash": recipe_hash,
            "earlier_recipe_hashes": earlier,
        }
        write_sealed(self.path / "run.json", header)  # the truth first: `recipe.yaml` is a copy for readers
        self._header = header

    def write_recipe(self) -> None:
        """Write `recipe.yaml`, a copy for readers, where it is not what `run.json` holds."""
        keep_text(self.path / "recipe.yaml", self.recipe_yaml)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that writes to this run; sweeps up after a killed one first.

        Raises `RunFolderError` when another process has it. A killed process's lock is gone with it.
        """
        with only_writer(self.path):
            self._sweep()
            yield

    def _sweep(self) -> None:
        with storage_errors(self.path):
            for folder in (self.path, self.path / "rollouts", self.path / "evaluations", self.path / "checkpoints"):
                clean_leftovers(folder)
        if self._metrics.path.exists():
            self._metrics.repair()

    # -- what the run is ---------------------------------------------------------------------------------------------

    @property
    def recipe_yaml(self) -> str:
        """The resolved recipe."""
        return str(self._header["recipe_yaml"])

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain data, whatever its kind.

        Raises:
            RunFolderError: it is not YAML.
        """
        try:
            recipe = load_yaml(self.recipe_yaml)
        except (yaml.YAMLError, RecipeError) as error:
            raise RunFolderError(
                f"the recipe in `{self.path / 'run.json'}` is not YAML ({error}); restore it"
            ) from error
        return recipe if isinstance(recipe, dict) else {}

    @property
    def recipe_hash(self) -> str:
        """Hash of the resolved recipe."""
        return str(self._header["recipe_hash"])

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen at start and is reused on resume (dtype, threads, limits …)."""
        return dict(self._header["choices"])

    @property
    def inputs(self) -> dict[str, str]:
        """Hashes of what the run read at its start, by the recipe's field; empty where none were recorded."""
        return dict(self._header.get("inputs", {}))

    @property
    def environment(self) -> dict[str, Any]:
        """What the run was started on."""
        return read_sealed(self.path / "environment.json") or {}

    @property
    def model_path(self) -> Path:
        """Folder of the exported model."""
        return self.path / "model"

    @property
    def best_path(self) -> Path:
        """Folder of the model that did best at a held-out evaluation."""
        return self.path / "best"

    @property
    def report_path(self) -> Path:
        """Where the report is rendered to."""
        return self.path / "report.html"

    # -- metrics -----------------------------------------------------------------------------------------------------

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add the row of one step and force it to disk; `row["step"]` must rise. Raises `ValueError` for a repeat."""
        self._metrics.append(row)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows, one a step; a line torn by a kill is ignored."""
        return self._metrics.rows()

    def drop_metrics_after(self, step: int) -> None:
        """Forget the rows of later steps (a resumed run makes them again)."""
        self._metrics.drop_after(step)

    # -- rollouts and samples ----------------------------------------------------------------------------------------

    def write_rollouts(
        self,
        batch: int,
        rollouts: Sequence[Rollout],
        extra: Mapping[str, Any] | None = None,
        *,
        group_size: int | None = None,
    ) -> None:
        """Write a rollout batch (prompt by prompt). `extra`: further columns, e.g. `step`; see `rollout_files`."""
        path = self.rollouts_path(batch)
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
        rollout_files.write_rollouts(path, batch, rollouts, extra or {}, group_size)

    def read_rollouts(self, batch: int) -> list[Rollout] | None:
        """The rollouts of a batch exactly as written; None when the run has no such batch."""
        path = self.rollouts_path(batch)
        return rollout_files.read_rollouts(path) if path.exists() else None

    def rollout_rows(
        self, batch: int, columns: Sequence[str] | None = None, *, first: int | None = None
    ) -> list[dict[str, Any]]:
        """Columns (see `rollout_files.COLUMNS`) of a batch, or of its `first` rollouts, as dictionaries."""
        return rollout_files.read_rows(self.rollouts_path(batch), columns, first=first)

    def count_rollouts(self, batch: int) -> int:
        """Number of rollouts in a batch, without reading them."""
        return rollout_files.count_rows(self.rollouts_path(batch))

    def batches(self) -> list[int]:
        """Numbers of the rollout batches on disk, rising."""
        return sorted(int(match[1]) for match in map(_BATCH.fullmatch, _names(self.path / "rollouts")) if match)

    def rollouts_path(self, batch: int) -> Path:
        """The file of a rollout batch."""
        return self.path / "rollouts" / f"batch-{batch:06d}.parquet"

    def write_samples(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the samples of an evaluation, one row a problem; `name` is e.g. `step-000010`.

        The report reads these keys where they are there: `problem_id`, `task`, `question`, `answer`, `prompt`, `text`,
        `accuracy` and `format` (0 to 1, or None), `finish_reason`, `tokens`.
        """
        path = self.path / "evaluations" / f"{name}.parquet"
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
        rollout_files.write_rows(path, rows)

    def read_samples(self, name: str) -> list[dict[str, Any]] | None:
        """The samples of an evaluation; None when there are none of that name."""
        path = self.path / "evaluations" / f"{name}.parquet"
        return rollout_files.read_rows(path) if path.exists() else None

    def samples(self) -> list[str]:
        """Names of the evaluations with samples, sorted."""
        names = _names(self.path / "evaluations")
        return sorted(name.removesuffix(".parquet") for name in names if name.endswith(".parquet") and name[0] != ".")

    # -- checkpoints and models --------------------------------------------------------------------------------------

    def save_checkpoint(self, step: int, write: Callable[[Path], None], *, keep: int = 2) -> Path:
        """Save `checkpoints/step-…`: `write` fills the folder it is given, which appears whole or not at all.

        Afterwards only the latest `keep` remain. Raises `StorageFailure`; the earlier checkpoints are then untouched.
        """
        path = self.path / "checkpoints" / f"step-{step:06d}"
        _write_indexed(path, write)
        for _, old in self.checkpoints()[keep:]:
            remove_folder(old)
        return path

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the latest whole checkpoint, or None; what a killed process left unfinished is ignored."""
        return next(iter(self.checkpoints()), None)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of each whole checkpoint, the latest first; `check_index` says whether one is undamaged."""
        folder = self.path / "checkpoints"
        matches = [match for match in map(_STEP.fullmatch, _names(folder)) if match]
        return sorted(((int(match[1]), folder / match[0]) for match in matches), reverse=True)

    def export_model(self, write: Callable[[Path], None], record: AsTrained) -> Path:
        """Let `write` fill `model/` (Hugging Face layout) and add `record`; the earlier one stays until the new one is
        whole.
        """
        _write_model(self.model_path, write, record)
        return self.model_path

    def best_model(self, write: Callable[[Path], None], record: AsTrained, info: Mapping[str, Any]) -> Path:
        """As `export_model`, into `best/`; `info` (e.g. step, accuracy) is in its record."""
        _write_model(self.best_path, write, record.model_copy(update={"best": dict(info)}))
        return self.best_path

    def best(self) -> dict[str, Any] | None:
        """The `info` of the best model, or None while there is none."""
        from rethink.store.as_trained import NAME

        path = self.best_path / NAME
        record = read_sealed(path)
        if record is None:
            if self.best_path.is_dir():
                raise RunFolderError(f"`{path}` is missing: restore it from a copy, or remove `{self.best_path}`.")
            return None
        info = record.get("best", record)  # an earlier version wrote nothing else
        return info if isinstance(info, dict) else None

    # -- summary -----------------------------------------------------------------------------------------------------

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`: `before`, `after`, totals."""
        write_sealed(self.path / "summary.json", summary)

    def drop_summary(self) -> None:
        """Remove the summary of an end that the run has fallen behind."""
        with storage_errors(self.path):
            (self.path / "summary.json").unlink(missing_ok=True)

    def read_summary(self) -> dict[str, Any] | None:
        """The summary, or None before the run has one."""
        return read_sealed(self.path / "summary.json")


def _check_free(path: Path) -> None:
    """Raise `RunFolderError` unless a new run may be made in `path`."""
    if os.path.exists(path) and not path.is_dir():
        raise RunFolderError(f"`{path}` is a file, but a run needs a folder: choose another `--out`.")
    if RunFolder.exists(path):
        raise RunFolderError(
            f"`{path}` already holds a run (recipe {RunFolder.open(path).recipe_hash[:12]}). Add `--resume` to "
            "continue it (with a larger `steps` to extend it), choose another `--out`, or delete the folder to start "
            "over."
        )
    names = {name for name in _names(path) if ".tmp-" not in name}
    if names - _STARTUP_NAMES or (names and LOCK not in names):
        some = ", ".join(f"`{name}`" for name in sorted(names)[:3])
        raise RunFolderError(
            f"`{path}` is not empty and holds no run of Rethink (there is {some}, and no `run.json`). Nothing in it "
            "was touched: choose an empty or new folder with `--out`, or restore `run.json` where there was one."
        )


def _write_model(path: Path, write: Callable[[Path], None], record: AsTrained) -> None:
    """A model and how it is used, whole or not at all.

    The record has its own checksum and is not in the folder's index: a model can be read although somebody has changed
    its record.
    """
    from rethink.store.as_trained import NAME, write_as_trained

    def write_and_index(folder: Path) -> None:
        write(folder)
        write_index(folder, [name for name in _names(folder) if name not in (NAME, INDEX)])
        write_as_trained(folder, record)

    write_folder(path, write_and_index)


def _write_indexed(path: Path, write: Callable[[Path], None]) -> None:
    """As `write_folder`, with the hash of each file in the folder."""

    def write_and_index(folder: Path) -> None:
        write(folder)
        write_index(folder)

    write_folder(path, write_and_index)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
