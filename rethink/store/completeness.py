"""What a run's folder must hold by what the rest of it says, and does not: lost rows, rollouts, evaluations, models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rethink.recipe.kind import DEFAULT_KIND, kinds
from rethink.store.integrity import INDEX
from rethink.store.run_folder import RunFolder

SHOWN = 5
_PART = re.compile(r"(?:part|chunk)-(\d{6,})\.\w+")


def lost_parts(folder: RunFolder, until: int | None = None) -> list[str]:
    """A sentence for each kind of thing that is lost; empty where all is there.

    Args:
        folder: of the run.
        until: the last step that must be there; None: the last that anything in the folder speaks of.

    Raises:
        RunFolderError: a file that is read for it is damaged.
    """
    kind = kinds().get(folder.recipe.get("kind", DEFAULT_KIND))
    trains = kind is not None and kind.trains
    rows, summary = folder.metrics(), folder.read_summary() or {}
    latest = folder.latest_checkpoint()
    done = max([int(row["step"]) for row in rows] + ([latest[0]] if latest else []), default=None)
    if trains and isinstance(summary.get("steps"), int):
        done = max(done or 0, summary["steps"])
    elif kind is not None and kind.samples and not kind.measures and summary.get("finished") and "parts" in summary:
        done = max(done or 0, summary["parts"])  # a row for each part
    lost: list[str] = []
    done = done if until is None else until
    if done is not None:
        first = 0 if trains else 1
        steps = set(range(first, done + 1)) - {int(row["step"]) for row in rows}
        lost += _said(steps, f"rows of `{folder.path / 'metrics.jsonl'}` are lost: those of steps")
    if kind is not None and kind.rollouts:
        batches = {int(row["batch"]) for row in rows if "batch" in row}
        lost += _said(batches - set(folder.batches()), f"files of `{folder.path / 'rollouts'}` are lost: batches")
        evaluated = {int(row["step"]) for row in rows if "eval/accuracy" in row}
        there = {int(name.partition("-")[2]) for name in folder.samples() if name.startswith("step-")}
        lost += _said(evaluated - there, f"files of `{folder.path / 'evaluations'}` are lost: those of steps")
    for name in ("drawn", "evaluations") if kind is not None and kind.samples and not trains else ():
        lost += _said(_holes(folder, name, summary), f"files of `{folder.path / name}` are lost: numbers")
    return lost + _files(folder, trains, summary)


def _files(folder: RunFolder, trains: bool, summary: dict[str, Any]) -> list[str]:
    lost = []
    if not (folder.path / "environment.json").is_file():
        lost.append(f"`{folder.path / 'environment.json'}` is lost: what the run was started on is not known.")
    if not summary and (folder.model_path.is_dir() or ((folder.path / INDEX).is_file() and not trains)):
        lost.append(f"`{folder.path / 'summary.json'}` is lost: --resume writes it again.")
    if trains and summary.get("finished") and not folder.model_path.is_dir():
        lost.append(f"`{folder.model_path}` is lost, or was not written before a kill: --resume writes it again.")
    if "best" in summary and not folder.best_path.is_dir():
        lost.append(f"`{folder.best_path}`, the model of step {summary['best']['step']}, is lost.")
    return lost


def _holes(folder: RunFolder, name: str, summary: dict[str, Any]) -> set[int]:
    """Numbers that have no file: below the highest one, or below the number of parts in the summary."""
    place = folder.path / name
    numbers = part_numbers(place)
    parts = summary.get("parts", 0) if place.is_dir() and summary.get("finished") else 0
    return set(range(max(parts, *numbers, 0))) - numbers


def part_numbers(place: Path) -> set[int]:
    """Numbers of the parts or chunks in a folder."""
    return {int(m[1]) for m in (_PART.fullmatch(p.name) for p in place.iterdir()) if m} if place.is_dir() else set()


def _said(numbers: Iterable[int], what: str) -> list[str]:
    found = sorted(numbers)
    if not found:
        return []
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"{len(found)} {what} {', '.join(map(str, found[:SHOWN]))}{more}."]
