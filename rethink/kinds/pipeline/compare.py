"""The evaluations of a pipeline beside each other: means, and paired differences on the same problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rethink.errors import RunFolderError
from rethink.eval.statistics.estimates import paired_comparison
from rethink.kinds.eval.run import problem_means
from rethink.recipe.kind import kind_named
from rethink.store.completeness import lost_parts
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder

COMPARED = ("accuracy", "format", "language", "readability")


def write_comparisons(folder: PipelineFolder) -> dict[str, Any]:
    """Compute and write `comparisons.json`; returns the means by name of the model.

    The reference of the paired differences is the first stage that trains (R1-Zero, where there is one).
    """
    rows = evaluations(folder)
    records = folder.records()
    summaries = {}
    for label, (stage, _) in rows.items():
        record = records[folder.stages[stage]["hash"]]
        summaries[label] = RunFolder.open(folder.stage_path(record)).read_summary() or {}
    reference = next((label for label in rows if label in folder.stages), None)
    paired: dict[str, dict[str, Any]] = {}
    for label, (_, samples) in rows.items():
        if reference is not None and label != reference:
            found = {metric: _paired(rows[reference][1], samples, metric) for metric in COMPARED}
            paired[label] = {metric: value for metric, value in found.items() if value is not None}
    folder.write_results(
        "comparisons", {"reference": reference, "paired": paired, "evaluations": {k: s for k, (s, _) in rows.items()}}
    )
    return {
        label: {name: entry["mean"] for name, entry in summary.get("metrics", {}).items()}
        for label, summary in summaries.items()
    }


def evaluations(folder: PipelineFolder) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """(stage, its samples) of every evaluation that is done, by what the report calls its model."""
    records = folder.records()
    found = {}
    for name, entry in folder.stages.items():
        record = records.get(entry["hash"])
        if not kind_named(entry["kind"]).measures or record is None or record.state != "done":
            continue
        run = RunFolder.open(folder.stage_path(record))
        samples = evaluated_rows(run)
        found[entry.get("evaluates") or name] = (name, samples)
    return found


def evaluated_rows(run: RunFolder) -> list[dict[str, Any]]:
    """All samples of an evaluation that is done.

    Raises:
        RunFolderError: a file is damaged or lost.
    """
    rows = [row for part in run.samples() for row in run.read_samples(part) or []]
    summary = run.read_summary()
    if summary is None or len(rows) != summary["problems"] * summary["samples"]:
        raise RunFolderError(
            f"the evaluation in `{run.path}` has lost a file: it holds {len(rows)} samples, "
            + ("and no summary.json. " if summary is None else f"of {summary['problems']} × {summary['samples']}. ")
            + " ".join(lost_parts(run))
            + " Restore it, or remove that folder and its record beside it, and give the same command again."
        )
    return rows


def _paired(first: list[dict[str, Any]], second: list[dict[str, Any]], metric: str) -> Mapping[str, Any] | None:
    """The difference on problems that both have a value for; None where there is none."""
    a, b = problem_means(first, metric), problem_means(second, metric)
    common = [problem for problem in a if problem in b]
    if not common:
        return None
    result = paired_comparison([a[p] for p in common], [b[p] for p in common])
    return {"difference": result.difference, "low": result.low, "high": result.high, "p": result.p, "n": result.n}
