"""Runs beside each other: where their recipes differ, their curves, and paired differences on the same problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.eval.statistics.estimates import PairedComparison, paired_comparison
from rethink.observe.number_text import number
from rethink.observe.run_state import SHOWN_METRICS, RunState, state_of
from rethink.recipe.identity import leaves
from rethink.store.run_folder import RunFolder
from rethink.types import is_right

_Key = tuple[str, str, str]
"""Task, question and gold answer."""


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """Two runs on the held-out problems that both evaluated last."""

    second: str
    """Folder of the run that is compared with the first."""
    paired: PairedComparison
    became_right: int
    """Problems that the first gets wrong and the second right."""
    became_wrong: int


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """Several runs."""

    runs: tuple[RunState, ...]
    recipes: Mapping[str, tuple[Any, ...]]
    """By dotted field: its value in each run, where they are not all equal; None where a run has no such field."""
    curves: Mapping[str, tuple[tuple[tuple[int, float], ...], ...]]
    """By metric: (step, value) of each run."""
    paired: tuple[PairedRuns, ...]
    """Each further run with the first, where they have problems in common."""


def compare_runs(folders: Sequence[Path]) -> RunsComparison:
    """Compare runs, the first being what the others are compared with.

    Raises:
        RunFolderError: a folder holds no run, or a damaged one.
    """
    runs = [RunFolder.open(folder) for folder in folders]
    recipes = [leaves(run.recipe) for run in runs]
    fields = dict.fromkeys(field for recipe in recipes for field in recipe)
    values = {field: tuple(recipe.get(field) for recipe in recipes) for field in fields}
    rows = [run.metrics() for run in runs]
    curves = {name: tuple(_curve(of, name) for of in rows) for name in SHOWN_METRICS}
    answers = [_answers(run) for run in runs]
    paired = [_paired(folder, answers[0], of) for folder, of in zip(folders[1:], answers[1:], strict=True)]
    return RunsComparison(
        tuple(state_of(folder) for folder in folders),
        {field: of for field, of in values.items() if any(value != of[0] for value in of[1:])},
        {name: of for name, of in curves.items() if any(of)},
        tuple(found for found in paired if found is not None),
    )


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(row["step"]), value) for row in rows if (value := number(row, name)) is not None)


def _answers(run: RunFolder) -> dict[_Key, float]:
    """Whether each problem of the last evaluation was solved; problems that could not be judged are left out."""
    names = run.samples()
    rows = run.read_samples(names[-1]) or [] if names else []
    found: dict[_Key, float] = {}
    for row in rows:
        if row.get("accuracy") is not None:
            key = (str(row.get("task")), str(row.get("question")), str(row.get("answer")))
            found.setdefault(key, float(is_right(row["accuracy"])))
    return found


def _paired(second: Path, a: Mapping[_Key, float], b: Mapping[_Key, float]) -> PairedRuns | None:
    common = [key for key in a if key in b]
    if len(common) < 2:
        return None
    return PairedRuns(
        str(second),
        paired_comparison([a[key] for key in common], [b[key] for key in common]),
        sum(b[key] > a[key] for key in common),
        sum(b[key] < a[key] for key in common),
    )
