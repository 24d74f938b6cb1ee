"""A pipeline as a page: `report.html`, one file that opens offline, made from its folder alone, whole or unfinished.

What a model wrote is hostile: it is escaped (`markup`), and this page has no script at all, by its policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.observe.number_text import duration, percent
from rethink.observe.report.aha import aha
from rethink.observe.report.markup import (
    definitions,
    details,
    document,
    element,
    flat,
    navigation,
    prose,
    table,
    text,
)
from rethink.observe.report.pipeline_samples import samples_section
from rethink.recipe.kind import kind_named
from rethink.store.atomic import write_bytes
from rethink.store.pipeline_folder import HASH_SHOWN, PipelineFolder, StageRecord, disk_bytes
from rethink.store.run_folder import RunFolder

_LINKS = (
    ("results", "Results"),
    ("distillation", "Distillation"),
    ("stages", "Stages"),
    ("data", "Data"),
    ("aha", "Self-correction"),
    ("samples", "Samples"),
    ("recipe", "Recipe"),
)
_SHARES = ("accuracy", "format", "language", "readability", "truncated")
_MEANING = {
    "accuracy": "share of right answers",
    "format": "share of turns that are one thought and one answer",
    "length": "mean tokens of a completion",
    "language": "share of the thought's words in the target language",
    "readability": "tags × repetition × paragraphs × language, see `docs/curation.md`",
    "truncated": "share of completions that the token limit cut",
}


@dataclass(frozen=True, slots=True)
class PipelineData:
    """Everything that the page shows."""

    folder: PipelineFolder
    stages: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, StageRecord]
    """By the stage's name now; stages that never began have none."""
    summaries: Mapping[str, Mapping[str, Any]]
    """`summary.json` of every stage that is done, by name."""
    evaluations: Mapping[str, str]
    """Stage of each evaluation that is done, by what it measures."""
    comparisons: Mapping[str, Any]


def pipeline_data(folder: PipelineFolder) -> PipelineData:
    """Read a pipeline's folder.

    Raises:
        RunFolderError: a file is damaged.
    """
    stages, all_records = folder.stages, folder.records()
    records = {name: all_records[entry["hash"]] for name, entry in stages.items() if entry["hash"] in all_records}
    done = {name: record for name, record in records.items() if record.state == "done"}
    summaries = {}
    for name, record in done.items():
        path = folder.stage_path(record)
        summary = RunFolder.open(path).read_summary() if RunFolder.exists(path) else None
        summaries[name] = summary or {}
    evaluations = {
        str(stages[name].get("evaluates") or name): name for name in done if kind_named(stages[name]["kind"]).measures
    }
    return PipelineData(folder, stages, records, summaries, evaluations, folder.read_results("comparisons") or {})


def write_pipeline_report(folder: PipelineFolder) -> Path:
    """Render the pipeline into its `report.html`, which appears whole or stays as it was; returns its path.

    Raises:
        RunFolderError: a file of the pipeline is damaged.
        StorageFailure: the disk refuses.
    """
    write_bytes(folder.report_path, render_pipeline(folder).encode("utf-8", "replace"))
    return folder.report_path


def render_pipeline(folder: PipelineFolder) -> str:
    """The page as text."""
    data = pipeline_data(folder)
    sources = _sample_sources(data)
    body = [
        _header(data),
        navigation(_LINKS),
        '<main id="main">',
        _section("results", "What each stage did", _results(data)),
        _section("distillation", "Distillation against reinforcement learning", _distillation(data)),
        _section("stages", "Stages", _stages(data)),
        _section("data", "Data that stages made", _made_data(data)),
        _section("aha", "Self-correction", _self_correction(sources)),
        _section("samples", "The same problems, model by model", samples_section(sources)),
        _section("recipe", "Recipe and environment", _recipe(data)),
        "</main>",
    ]
    name = str(folder.facts.get("name", folder.path.name))
    return document(f"{name}: {_state(data)}", "\n".join(body))


# --- head ---------------------------------------------------------------------------------------------------------


def _state(data: PipelineData) -> str:
    done = sum(record.state == "done" for record in data.records.values())
    failed = [name for name, record in data.records.items() if record.state == "failed"]
    words = "finished" if done == len(data.stages) else f"{done} of {len(data.stages)} stages done"
    return words + (f", failed: {', '.join(failed)}" if failed else "")


def _header(data: PipelineData) -> str:
    facts = data.folder.facts
    seconds = sum(record.seconds for record in data.records.values())
    flops = sum(record.compute.get("flops", 0.0) for record in data.records.values())
    pairs: list[tuple[str, object]] = [
        ("pipeline", _state(data)),
        ("seed", facts.get("seed", "")),
        ("time of all stages", duration(seconds)),
        ("on disk", f"{disk_bytes(data.folder.path) / 1e9:.2f} GB"),
    ]
    if flops:
        pairs.append(("computed, by the rule of docs/pipeline.md", f"{flops:.3g} operations"))
    about = facts.get("description")
    intro = f'<p class="about">{text(about)}</p>' if about else ""
    title = text(facts.get("name", data.folder.path.name))
    return f'<header><p class="kind">Rethink pipeline</p><h1>{title}</h1>{intro}{definitions(pairs)}</header>'


# --- results ------------------------------------------------------------------------------------------------------


def _results(data: PipelineData) -> str:
    if not data.evaluations:
        return _plain("No evaluation is done yet, or the recipe has no `evaluation`.")
    first = data.summaries[next(iter(data.evaluations.values()))]
    how = (
        f"{first.get('problems')} held-out problems, {first.get('samples')} completion(s) of each, the same for every "
        "model. In brackets 95 % intervals over problems."
    )
    parts = [f"<p>{text(how)}</p>", _metric_table(data), _paired(data), _by_task(data), _glossary()]
    return "".join(parts)


def _metric_table(data: PipelineData) -> str:
    names = [
        name for name in _MEANING
        if any(name in data.summaries[stage].get("metrics", {}) for stage in data.evaluations.values())
    ]  # fmt: skip
    rows = []
    for label, stage in data.evaluations.items():
        metrics = data.summaries[stage].get("metrics", {})
        rows.append([text(label), *(_value(name, metrics.get(name)) for name in names)])
    return table(["model", *names], rows)


def _value(name: str, entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    mean, low, high = (float(entry[key]) for key in ("mean", "low", "high"))
    if name in _SHARES:
        return text(f"{percent(mean)} ({100 * low:.1f}–{100 * high:.1f})")
    return text(f"{mean:.1f} ({low:.1f}–{high:.1f})")


def _paired(data: PipelineData) -> str:
    reference, paired = data.comparisons.get("reference"), data.comparisons.get("paired") or {}
    if not paired:
        return ""
    names = [name for name in _SHARES if any(name in entry for entry in paired.values())]
    rows = [
        [text(label), *(_difference(entry.get(name)) for name in names)]
        for label, entry in paired.items()
        if label in data.evaluations
    ]
    words = (
        f"Difference to {reference}, problem by problem, in percentage points with its 95 % interval (bootstrap over "
        "problems). An interval that leaves out 0 is more than chance explains."
    )
    return f"<h3>Against {text(reference)}</h3><p>{text(words)}</p>" + table(["model", *names], rows)


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    low, high = 100 * float(entry["low"]), 100 * float(entry["high"])
    return text(f"{100 * float(entry['difference']):+.1f} ({low:+.1f} to {high:+.1f})")


def _by_task(data: PipelineData) -> str:
    tasks = list(
        dict.fromkeys(task for stage in data.evaluations.values() for task in data.summaries[stage].get("tasks", {}))
    )
    if len(tasks) < 2:
        return ""
    rows = []
    for label, stage in data.evaluations.items():
        by_task = data.summaries[stage].get("tasks", {})
        cells = [_value("accuracy", by_task.get(task, {}).get("accuracy")) for task in tasks]
        rows.append([text(label), *cells])
    return "<h3>Accuracy by task</h3>" + table(["model", *map(text, tasks)], rows)


def _glossary() -> str:
    listed = "".join(f"<dt><code>{name}</code></dt><dd>{prose(meaning)}</dd>" for name, meaning in _MEANING.items())
    return details("What the columns mean", f"<dl>{listed}</dl>", class_="explain")


# --- distillation -------------------------------------------------------------------------------------------------


def _distillation(data: PipelineData) -> str:
    """The analogue of the paper's Table 6: the same base by RL, by distillation, by both, with what each computed."""
    parts = []
    for name, entry in data.stages.items():
        rows = entry.get("distillation")
        if not rows:
            continue
        lines = []
        for heading, label in rows.items():
            stage = data.evaluations.get(label)
            metrics = {} if stage is None else data.summaries[stage].get("metrics", {})
            cells = [_value(metric, metrics.get(metric)) for metric in ("accuracy", "format", "length")]
            lines.append([text(heading), text(label), *cells, text(_compute(data, heading, label))])
        headings = ["student", "stage", "accuracy", "format", "length", "operations"]
        parts.append(f"<h3>{text(name)}</h3>" + table(headings, lines))
    if not parts:
        return _plain("The recipe has no stage of the kind `distill`, or no `evaluation`.")
    words = (
        "As Table 6 of arXiv 2501.12948 on this scale: one base model, improved in different ways. Operations are what "
        "the student's own stages computed, and for distillation the teacher's answers too (not the teacher's own "
        "training), by the rule of docs/pipeline.md; they are stated, not made equal."
    )
    return f"<p>{text(words)}</p>" + "".join(parts)


def _compute(data: PipelineData, heading: str, label: str) -> str:
    if heading == "base":
        return "0"
    stages = {f"{label}-samples", label}
    if heading == "distilled + rl":
        student = label.removesuffix("-rl")
        stages = {f"{student}-samples", student, label}
    known = [data.records[name].compute.get("flops") for name in stages if name in data.records]
    return f"{sum(value for value in known if value):.3g}" if any(known) else "–"


# --- stages -------------------------------------------------------------------------------------------------------


def _stages(data: PipelineData) -> str:
    rows = []
    for name, entry in data.stages.items():
        record = data.records.get(name)
        compute = {} if record is None else record.compute
        tokens = compute.get("tokens_generated", 0) + compute.get("tokens_trained", 0)
        state = "waits" if record is None else "interrupted" if record.state == "running" else record.state
        size = 0 if record is None else disk_bytes(data.folder.stage_path(record))
        rows.append(
            [
                text(name),
                text(entry["kind"]),
                text(state),
                text(duration(record.seconds) if record else ""),
                text(f"{tokens:,.0f}" if tokens else ""),
                text(f"{size / 1e6:,.0f} MB" if size else ""),
                f"<code>{text(str(entry['hash'])[:HASH_SHOWN])}</code>",
                text(", ".join(entry.get("inputs", []))),
            ]
        )
    headings = ["stage", "kind", "state", "time", "tokens", "on disk", "hash", "uses"]
    errors = "".join(
        f'<p class="empty"><b>{text(name)}</b>: {text(record.error)}</p>'
        for name, record in data.records.items()
        if record.error
    )
    recipes = "".join(
        details(text(name), element("pre", text(record.recipe_yaml), tabindex="0"))
        for name, record in data.records.items()
    )
    said = "".join(
        f"<dt>{text(name)}</dt><dd>{text(entry['description'])}</dd>"
        for name, entry in data.stages.items()
        if entry.get("description")
    )
    about = f'<div class="explain"><dl>{said}</dl></div>' if said else ""
    return about + table(headings, rows) + errors + details("Resolved recipe of each stage", recipes)


# --- data ---------------------------------------------------------------------------------------------------------

_HIDDEN = ("recipe", "recipe_hash", "finished", "wall_s", "peak_rss_mb", "choices", "tokens_total")


def _made_data(data: PipelineData) -> str:
    """What samples stages kept and dropped, and what reward models learned: their summaries, as they are."""
    parts = []
    for name, entry in data.stages.items():
        summary = data.summaries.get(name)
        if summary and kind_named(entry["kind"]).counts_data:
            shown = {key: value for key, value in summary.items() if key not in _HIDDEN}
            domains = (shown.get("statistics") or {}).get("domains")
            counted = _domains(domains) if isinstance(domains, list) else ""
            facts = [pair for pair in flat(shown) if len(pair[1]) < 120 and not pair[0].startswith("statistics.dom")]
            parts.append(f"<h3>{text(name)}</h3>{counted}" + details("All numbers", definitions(facts)))
    return "".join(parts) or _plain("No stage has made data yet.")


def _domains(domains: Sequence[Mapping[str, Any]]) -> str:
    """The samples of each task: kept, and dropped by each filter."""
    rows = [
        [
            text(entry.get("domain", "")),
            text(f"{entry.get('samples', 0):,}"),
            text(f"{entry.get('kept', 0):,}"),
            text(f"{entry.get('tokens') or 0:.0f}"),
            text(", ".join(f"{why} {n:,}" for why, n in (entry.get("reasons") or {}).items() if why != "kept")),
        ]
        for entry in domains
    ]
    return table(["task", "samples", "kept", "mean tokens", "dropped, by reason"], rows)


# --- the rest -----------------------------------------------------------------------------------------------------


def _sample_sources(data: PipelineData) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for label, stage in data.evaluations.items():
        run = RunFolder.open(data.folder.stage_path(data.records[stage]))
        names: Sequence[str] = run.samples()
        found[label] = [row for name in names for row in run.read_samples(name) or []]
    return found


def _self_correction(sources: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The self-corrections in the held-out completions of each model."""
    if not sources:
        return _plain("No model has been evaluated yet.")
    rows = {
        label: [(row["text"], row.get("answer")) for row in found if isinstance(row.get("text"), str)]
        for label, found in sources.items()
    }
    return aha(rows, "model")


def _recipe(data: PipelineData) -> str:
    environment = flat(data.folder.environment)
    commits = sorted({record.commit for record in data.records.values() if record.commit})
    parts = [
        details("Recipe", element("pre", text(data.folder.recipe_yaml), tabindex="0")),
        details("Environment", definitions(environment)) if environment else "",
        f"<p>Commits of Rethink that ran stages: {text(', '.join(commits))}.</p>" if commits else "",
    ]
    return "".join(parts)


def _section(identifier: str, title: str, content: str) -> str:
    heading = f'<h2 id="{identifier}-h">{text(title)}</h2>'
    return f'<section id="{identifier}" aria-labelledby="{identifier}-h">{heading}{content}</section>'


def _plain(words: str) -> str:
    return f'<p class="empty">{prose(words)}</p>'
