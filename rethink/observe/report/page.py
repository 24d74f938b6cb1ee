"""`report.html`: one file that opens offline, made from a run's folder alone, whole or unfinished.

Model output is hostile. Three guards protect the reader from it: text is escaped here (`markup`), the
script puts it on the page as text nodes only, and the content security policy lets nothing run or load but the one
script and the one style below, named by their hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rethink.observe.report import sections
from rethink.observe.report.aha import aha
from rethink.observe.report.charts import has_values
from rethink.observe.report.facts import report_data, sample, word_counts
from rethink.observe.report.markup import document, json_block, navigation
from rethink.observe.report.panels import panels, reflection_panels
from rethink.recipe.kind import DEFAULT_KIND, Kind, kinds
from rethink.store.atomic import write_bytes
from rethink.store.run_folder import RunFolder

_LINKS = (
    ("results", "Results"),
    ("charts", "Charts"),
    ("reflection", "Reflection"),
    ("samples", "Rollouts"),
    ("heldout", "Held-out"),
    ("recipe", "Recipe"),
    ("metrics", "Metrics"),
)


def write_report(folder: RunFolder) -> Path:
    """Render the run into its `report.html`, which appears whole or stays as it was; returns its path.

    Raises:
        RunFolderError: a file of the run is damaged.
        StorageFailure: the disk refuses.
    """
    # A lone surrogate, which JSON may hold and UTF-8 may not, becomes "?".
    write_bytes(folder.report_path, render(folder).encode("utf-8", "replace"))
    return folder.report_path


def render(folder: RunFolder) -> str:
    """The page as text."""
    data = report_data(folder)
    kind = kinds().get(data["recipe"].get("kind", DEFAULT_KIND))
    if kind is None or not kind.rollouts:
        return _without_rollouts(folder, data, kind)
    packed = with_trained_steps(sample(folder), data["metrics"])
    counts = with_steps(word_counts(packed["rollouts"]), packed["rollouts"])
    body = [
        sections.header(data),
        navigation(_LINKS),
        '<main id="main">',
        sections.lost(data),
        sections.lost_workers(data),
        sections.results(data),
        sections.section("charts", "Training", sections.charts(panels(data), "No metrics yet.")),
        _reflection(data, counts, packed),
        sections.samples(packed, data),
        sections.held_out(packed),
        sections.made_with(data, folder.recipe_yaml),
        sections.every_metric(data),
        "</main>",
        '<div id="tooltip" role="status" hidden></div>',
        json_block("samples-data", {key: packed[key] for key in ("prompts", "rollouts", "held_out")}),
    ]
    return document(f"{sections.name_of(data)}: {sections.status_of(data)}", "\n".join(body), script="page.js")


def _without_rollouts(folder: RunFolder, data: Mapping[str, Any], kind: Kind | None) -> str:
    """The page of a run that samples nothing: no rollouts, rewards or completions, and no word of them."""
    drawn = [panel for panel in panels(data) if has_values(panel.chart)]
    body = [
        sections.header(data),
        navigation(link for link in _LINKS if link[0] in ("results", "charts", "recipe", "metrics")),
        '<main id="main">',
        sections.lost(data),
        sections.lost_workers(data),
        sections.first_and_last(data),
        kind.load("sections")(data) if kind and kind.sections else "",
        sections.section("charts", "Training", sections.charts(drawn, "No metrics yet.")),
        sections.made_with(data, folder.recipe_yaml),
        sections.every_metric(data),
        "</main>",
        '<div id="tooltip" role="status" hidden></div>',
        json_block("samples-data", {"prompts": [], "rollouts": [], "held_out": []}),
    ]
    return document(f"{sections.name_of(data)}: {sections.status_of(data)}", "\n".join(body), script="page.js")


def with_trained_steps(packed: dict[str, Any], metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The packed sample with each rollout at the first step whose metrics name its batch, and what was left out.

    The charts count steps so; a batch that no step was trained on yet keeps the step of its file.
    """
    trained: dict[int, int] = {}
    for row in metrics:
        if isinstance(row.get("batch"), int):
            trained.setdefault(row["batch"], int(row["step"]))
    rollouts = [
        {**row, "step": trained.get(row["batch"], row["step"] if row["step"] is not None else row["batch"])}
        for row in packed["rollouts"]
    ]
    texts = [row["text"] for row in [*rollouts, *packed["held_out"]]]
    return {
        **packed,
        "rollouts": rollouts,
        "batches": len({row["batch"] for row in rollouts}),
        "cut": any(len(value) > packed["text_limit"] for value in texts),  # the note makes a cut text longer
    }


def with_steps(counts: Sequence[Mapping[str, Any]], rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Word counts with the step of each batch."""
    steps = {row["batch"]: row["step"] for row in rollouts}
    return [{**entry, "step": steps[entry["batch"]]} for entry in counts]


def _reflection(data: Mapping[str, Any], counts: Sequence[Mapping[str, Any]], packed: Mapping[str, Any]) -> str:
    drawn = [panel for panel in reflection_panels(data, counts) if panel.chart.lines]
    content = sections.charts(drawn, "No completions to count words in yet.") + sections.reflection_table(counts)
    content += _self_correction(counts, packed["rollouts"])
    intro = (
        "<p>Words such as “wait” or “let me check”: their rise, together with accuracy, is the paper's aha moment.</p>"
    )
    return sections.section("reflection", "Reflection", intro + content)


def _self_correction(counts: Sequence[Mapping[str, Any]], rollouts: Sequence[Mapping[str, Any]]) -> str:
    """The self-corrections in the first and the last sampled batch, and in all of them."""
    if not counts:
        return ""
    batches = {f"step {entry['step']}": entry["batch"] for entry in (counts[0], counts[-1])}
    groups = {name: [row for row in rollouts if row["batch"] == batch] for name, batch in batches.items()}
    groups[f"all {len(counts)} batches shown"] = list(rollouts)
    said = {name: [(row["text"], row["answer"]) for row in rows] for name, rows in groups.items()}
    return "<h3>Self-correction</h3>" + aha(said, "rollouts of")
