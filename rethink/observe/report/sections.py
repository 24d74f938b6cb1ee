"""The sections of the page as HTML: facts, results, charts, samples, recipe, every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rethink.observe.diagnosis import diagnosis
from rethink.observe.glossary import GLOSSARY, MetricInfo, describe
from rethink.observe.number_text import duration
from rethink.observe.report.before_after import comparison, evaluation_entry, verdict
from rethink.observe.report.charts import MAX_POINTS, Chart, draw, has_values, legend, number_text, window
from rethink.observe.report.facts import words_that_occur
from rethink.observe.report.markup import definitions, details, element, flat, prose, table, text
from rethink.observe.report.panels import Panel, column, finite

Data = Mapping[str, Any]
MOST_LOST = 20
"""Rows of the table of lost workers."""


def section(identifier: str, title: str, content: str) -> str:
    """A section with its heading."""
    heading = f'<h2 id="{identifier}-h">{title}</h2>'
    return f'<section id="{identifier}" aria-labelledby="{identifier}-h">{heading}{content}</section>'


def plain(words: str) -> str:
    """A plain statement that something is not there."""
    return f'<p class="empty">{prose(words)}</p>'


# --- head --------------------------------------------------------------------------------------------------------


def name_of(data: Data) -> str:
    """The recipe's name, or the folder's where the recipe has none."""
    return str(data["recipe"].get("name") or data["path"])


def status_of(data: Data) -> str:
    """How far the run is, in words."""
    steps, done = data["recipe"].get("steps"), data["steps_done"]
    if not isinstance(steps, int):
        return f"{done} steps done"
    if done >= steps and _is_current(data) and data["summary"].get("finished"):
        return f"finished: {done:,} of {steps:,} steps"
    return f"{done:,} of {steps:,} steps done"


def header(data: Data) -> str:
    """Title, description and the facts that one looks for first."""
    recipe, summary = data["recipe"], data["summary"] or {}
    about = recipe.get("description")
    facts: list[tuple[str, object]] = [("run", status_of(data)), ("recipe hash", data["recipe_hash"][:12])]
    model = recipe.get("model")
    if isinstance(model, Mapping) and model.get("path"):
        facts.append(("model", model["path"]))
    wall, tokens, memory = (finite(summary.get(key)) for key in ("wall_s", "tokens_total", "peak_rss_mb"))
    facts += [("wall time", duration(wall))] if wall is not None else []
    facts += [("tokens generated", f"{tokens:,.0f}")] if tokens is not None else []
    facts += [("peak memory", f"{memory / 1024:.1f} GiB")] if memory is not None else []
    best = data["best"] or {}
    accuracy = finite(best.get("accuracy"))
    if accuracy is not None:
        facts.append(("best in between", f"{number_text(accuracy, 'share')} after step {best.get('step')}"))
    intro = f'<p class="about">{text(about)}</p>' if about else ""
    return f'<header><p class="kind">Rethink run</p><h1>{text(name_of(data))}</h1>{intro}{definitions(facts)}</header>'


def lost(data: Data) -> str:
    """What is missing from the run's folder; empty where it is whole."""
    if not data["lost"]:
        return ""
    listed = "".join(f"<li>{prose(sentence)}</li>" for sentence in data["lost"])
    return section("lost", "Lost from this folder", f"<p>What follows is made from the rest.</p><ul>{listed}</ul>")


def lost_workers(data: Data) -> str:
    """Workers and ranks of a cluster that were lost, with the cause; empty where none was."""
    if not data["cluster"]:
        return ""
    shown = data["cluster"][-MOST_LOST:]
    rows = [[text(event.get(key, "")) for key in ("worker", "host", "cause")] for event in shown]
    words = f"{len(data['cluster'])} lost. Others did their work; the result is the same."
    content = f"<p>{text(words)}</p>" + table(["process", "machine", "cause"], rows)
    return section("workers", "Processes that were lost", content)


# --- before and after --------------------------------------------------------------------------------------------


def _is_current(data: Data) -> bool:
    """Whether the summary is of the steps that the metrics hold, and not of an earlier end of an extended run."""
    summary = data["summary"]
    return bool(summary) and summary.get("steps", data["steps_done"]) == data["steps_done"]


def ends(data: Data) -> tuple[tuple[str, Data] | None, tuple[str, Data] | None]:
    """(heading, entry) before and after; from the summary, or from the evaluations of a run without a current one."""
    evaluations = [evaluation_entry(row) for row in data["evaluations"]]
    summary = data["summary"] if _is_current(data) else {}
    before = summary.get("before") or (evaluations[0] if evaluations else None)
    after = summary.get("after") or (evaluations[-1] if len(evaluations) > 1 else None)
    done = "after" if summary.get("after") else "latest"
    return (
        (_heading("before", before), before) if before else None,
        (_heading(done, after), after) if after else None,
    )


def _heading(word: str, entry: Data) -> str:
    return f"{word} (step {entry['step']})" if isinstance(entry.get("step"), int) else word


def results(data: Data) -> str:
    """The table of before and after, and whether the difference means something."""
    before, after = ends(data)
    found = diagnosis(data["metrics"])
    why = found.text if found is not None else ""
    if before is None:
        words = "No held-out evaluation yet." if not data["metrics"] else "This run has no held-out evaluation."
        return section("results", "Held-out results", plain(words) + (f"<p>{text(why)}</p>" if why else ""))
    rows = comparison(before[1], after[1] if after else None)
    headings = ["", text(before[0]), text(after[0]) if after else "after", "change"]
    cells = [[text(row.label), text(row.before), text(row.after), text(row.change)] for row in rows]
    words = verdict(before[1], after[1], why) if after else f"There is no evaluation after training yet. {why}".rstrip()
    return section("results", "Held-out results", table(headings, cells, class_="results") + f"<p>{text(words)}</p>")


def first_and_last(data: Data) -> str:
    """The held-out metrics of a run without completions, at its first evaluation and at its latest."""
    evaluated = [row for row in data["metrics"] if any(name.startswith("eval/") for name in row)]
    if not evaluated:
        return section("results", "Held-out results", plain("This run has no held-out evaluation."))
    first, last = evaluated[0], evaluated[-1]
    rows = []
    for name in [name for name in last if name.startswith("eval/")]:
        info = _info(name)
        kind = "share" if info is not None and info.unit == "share" else "number"
        values = [finite(row.get(name)) for row in (first, last)]
        cells = ["–" if value is None else number_text(value, kind) for value in values]
        rows.append([f"<code>{text(name)}</code>", *cells, text(info.unit) if info else ""])
    headings = ["metric", f"after step {first['step']}", f"after step {last['step']}", "unit"]
    return section("results", "Held-out results", table(headings, rows, class_="results"))


# --- charts ------------------------------------------------------------------------------------------------------


def charts(panels: Sequence[Panel], missing_words: str) -> str:
    """A grid of figures; what has no values is named and not drawn."""
    drawn = [panel for panel in panels if has_values(panel.chart)]
    absent = [panel.chart.title for panel in panels if not has_values(panel.chart)]
    if not drawn:
        return plain(missing_words)
    grid = f'<div class="charts">{"".join(figure(panel) for panel in drawn)}</div>'
    if not absent:
        return grid
    return grid + plain(f"Not measured in this run: {', '.join(absent)}." + _why_no_kl(absent))


def _why_no_kl(absent: Sequence[str]) -> str:
    return " KL is measured only where a reference model is kept (`algorithm.beta` above 0)." if any(
        title.startswith("KL") for title in absent
    ) else ""  # fmt: skip


def figure(panel: Panel) -> str:
    """A chart with its title, latest value, legend, caption and explanation."""
    chart = panel.chart
    latest = _latest(chart)
    keys = "".join(
        f'<li><span class="key {shape} c{colour}"></span>{text(label)}</li>' for shape, label, colour in legend(chart)
    )
    caption = " ".join(filter(None, [panel.note, _drawn_as(chart)]))
    return (
        f'<figure><figcaption><h3>{text(chart.title)}</h3><span class="latest">{text(latest)}</span></figcaption>'
        f'{draw(chart)}<ul class="legend">{keys}</ul>'
        + (f'<p class="note">{prose(caption)}</p>' if caption else "")
        + explanation(panel.metrics)
        + "</figure>"
    )


def _latest(chart: Chart) -> str:
    if chart.stacked or sum(not line.faint for line in chart.lines) != 1:
        return ""  # of which line would it be?
    values = [value for value in chart.lines[0].values if value is not None]
    return f"latest {number_text(values[-1], chart.kind)}" if values else ""


def _drawn_as(chart: Chart) -> str:
    notes = []
    count = min(len(chart.steps), MAX_POINTS)
    if chart.smooth and count >= 30 and not chart.stacked:
        notes.append(f"Bold: running mean over {window(count)} points.")
    if len(chart.steps) > MAX_POINTS:
        notes.append(f"Each point is the mean of {-(-len(chart.steps) // MAX_POINTS)} steps.")
    return " ".join(notes)


def explanation(names: Sequence[str]) -> str:
    """What the metrics mean, what is healthy, and what to do otherwise: from the glossary."""
    known = [info for name in names if (info := _info(name)) is not None]
    if not known:
        return ""
    entries = "".join(
        f"<dt><code>{text(info.name)}</code>{f' <small>{text(info.unit)}</small>' if info.unit else ''}</dt>"
        f"<dd>{prose(info.meaning)} <b>Healthy:</b> {prose(info.healthy)} <b>Otherwise:</b> "
        f"{prose(info.unhealthy_action)}</dd>"
        for info in known
    )
    return details("What this means", f"<dl>{entries}</dl>", class_="explain")


def _info(name: str) -> MetricInfo | None:
    try:
        return describe(name)
    except KeyError:
        return None


def reflection_table(counts: Sequence[Mapping[str, Any]]) -> str:
    """Number of occurrences of each word in the first and the last sampled batch, and in all of them."""
    if not counts:
        return ""
    words = words_that_occur(counts)
    if not words:
        total = sum(entry["completions"] for entry in counts)
        return plain(f"The {total:,} rollouts of this page contain no word of reflection.")
    headings = ["word", f"step {counts[0]['step']}", f"step {counts[-1]['step']}", f"all {len(counts)} batches shown"]
    rows = [
        [text(f"“{word}”")]
        + [f"{entry['counts'].get(word, 0):,}" for entry in (counts[0], counts[-1])]
        + [f"{sum(entry['counts'].get(word, 0) for entry in counts):,}"]
        for word in words
    ]
    rows.append(["completions", *(f"{entry['completions']:,}" for entry in (counts[0], counts[-1])),
                 f"{sum(entry['completions'] for entry in counts):,}"])  # fmt: skip
    return details("Counts of each word", table([text(heading) for heading in headings], rows))


# --- samples -----------------------------------------------------------------------------------------------------

_NO_SCRIPT = "<noscript><p>The samples are shown by the page's script, which is switched off here.</p></noscript>"


def samples(packed: Data, data: Data) -> str:
    """The places that the script fills with rollouts; what is left out is said."""
    if not packed["rollouts"]:
        return section("samples", "Rollouts", plain("No rollouts yet."))
    cut = f" Texts are cut to {packed['text_limit']:,} characters." if packed["cut"] else ""
    words = f"{packed['shown']:,} of the run's {packed['total']:,} rollouts, from {packed['batches']} of its " \
            f"{data['rollout_batches']:,} batches, in whole groups where they fit.{cut}"  # fmt: skip
    return section(
        "samples", "Rollouts", f'<p class="note">{text(words)}</p>{_NO_SCRIPT}<div id="rollout-browser"></div>'
    )


def held_out(packed: Data) -> str:
    """The place that the script fills with held-out completions, before and after side by side."""
    rows = packed["held_out"]
    if not rows:
        return section("heldout", "Held-out completions", plain("No held-out completions yet."))
    problems = len({row["problem"] for row in rows})
    words = f"The first {problems:,} held-out problems with the model's answer to each."
    return section(
        "heldout",
        "Held-out completions",
        f'<p class="note">{text(words)}</p>{_NO_SCRIPT}<div id="heldout-browser"></div>',
    )


# --- what was run ------------------------------------------------------------------------------------------------


def made_with(data: Data, recipe_yaml: str) -> str:
    """Resolved recipe, choices made at start, environment."""
    choices, environment = flat(data["choices"]), flat(data["environment"])
    parts = [
        details("Resolved recipe", element("pre", text(recipe_yaml), tabindex="0")) if recipe_yaml.strip() else
        plain("The run has no recipe text."),
        details("Choices made at the start", definitions(choices)) if choices else plain("No choices were recorded."),
        details("Environment", definitions(environment)) if environment else plain("No environment was recorded."),
    ]  # fmt: skip
    return section("recipe", "Recipe and environment", "".join(parts))


def every_metric(data: Data) -> str:
    """First, latest, lowest and highest value of each metric of the run, with its meaning."""
    rows = data["metrics"]
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("step", "batch")))
    order = {name: place for place, name in enumerate(GLOSSARY)}
    names.sort(key=lambda name: order.get(name, order["reward/<part>"] if name.startswith("reward/") else len(order)))
    if not names:
        return section("metrics", "All metrics", plain("No metrics yet: the run has not finished a step."))
    lines = []
    for name in names:
        values = [value for value in column(rows, name) if value is not None]
        info = _info(name)
        kind = "share" if info is not None and info.unit == "share" else "number"
        shown = [values[0], values[-1], min(values), max(values)] if values else []
        cells = [number_text(value, kind) for value in shown] or ["–"] * 4
        meaning = prose(info.meaning) if info else ""
        lines.append([f"<code>{text(name)}</code>", *cells, text(info.unit) if info else "", meaning])
    headings = ["metric", "first", "latest", "lowest", "highest", "unit", "meaning"]
    return section("metrics", "All metrics", table(headings, lines, class_="metrics"))
