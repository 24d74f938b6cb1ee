"""The paper's Tables 4, 5 and 6 with our numbers, and the comparison of ways to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rethink.eval.benchmarks.catalogue import benchmarks
from rethink.eval.benchmarks.prompting import MODES
from rethink.eval.benchmarks.published import SOURCE, TABLE_4, TABLE_4_MODELS, TABLE_5, TABLE_6
from rethink.eval.tables.card_section import how, percent
from rethink.eval.tables.formats import Column, Table

Details = Mapping[str, Mapping[str, Any]]
"""What `details.json` holds: a benchmark's numbers and protocol, by benchmark."""

MISSING = "–"
_PUBLISHED = "†"
_COLUMNS = (
    ("AIME 2024", "pass@1", "aime24"),
    ("AIME 2024", "cons@64", "aime24"),
    ("MATH-500", "pass@1", "math500"),
    ("GPQA Diamond", "pass@1", "gpqa-diamond"),
    ("LiveCodeBench", "pass@1", "livecodebench"),
)
_CONS_OF_PAPER = 64


def overview(measured: Mapping[str, Details], published: bool) -> Table:
    """Table 4: a row a benchmark in the paper's blocks, a column a model.

    Args:
        measured: details by model.
        published: add the paper's columns, and its rows that are not measured here.
    """
    models = list(measured)
    reference = TABLE_4_MODELS if published else ()
    columns = [Column("", "Benchmark (Metric)"), *(Column("measured", model) for model in models)]
    columns += [Column(f"published {_PUBLISHED}", model) for model in reference]
    rows: list[tuple[str, list[str]]] = []
    known = {name for details in measured.values() for name in details}
    for block, label, name, numbers in TABLE_4:
        if not published and name not in known:
            continue
        cells = [score_cell(measured[model].get(name)) for model in models]
        rows.append((block, [label, *cells, *(_published_cell(n) for n in numbers[: len(reference)])]))
    in_paper = {name for _, _, name, _ in TABLE_4}
    for name in (name for details in measured.values() for name in details):
        if name in in_paper or name not in known:
            continue
        known.discard(name)
        cells = [score_cell(measured[model].get(name)) for model in models]
        label = f"{_title(name)} ({_metric(name, measured)})"
        rows.append((_block(name), [label, *cells, *([MISSING] * len(reference))]))
    order = {"English": 0, "Code": 1, "Math": 2, "Chinese": 3, "Other": 4}
    rows.sort(key=lambda row: order[row[0]])
    return Table(
        "table-4",
        "Benchmarks, in the layout of the paper's Table 4 (percent, 95 % interval)",
        tuple(columns),
        tuple(rows),
        _notes(measured, published, "Table 4"),
    )


def reasoning(measured: Mapping[str, Details], published: bool, number: int) -> Table:
    """Table 5 (with Codeforces) or 6 (without): a row a model, a column a reasoning benchmark."""
    reference = (TABLE_5 if number == 5 else TABLE_6) if published else {}
    columns = [Column("", "Model"), *(Column(title, kind) for title, kind, _ in _COLUMNS)]
    if number == 5:
        columns.append(Column("Codeforces", "rating"))
    rows: list[tuple[str, list[str]]] = []
    for model, details in measured.items():
        cells = [
            score_cell(details.get(name)) if kind == "pass@1" else _cons_cell(details.get(name))
            for _, kind, name in _COLUMNS
        ]
        rows.append(("measured", [model, *cells, *([MISSING] if number == 5 else [])]))
    for model, numbers in reference.items():
        rows.append((f"published {_PUBLISHED}", [f"{model} {_PUBLISHED}", *(_published_cell(n) for n in numbers)]))
    return Table(
        f"table-{number}",
        f"Reasoning benchmarks, in the layout of the paper's Table {number} (percent, 95 % interval)",
        tuple(columns),
        tuple(rows),
        _notes(
            {m: {n: d for n, d in of.items() if n in {c[2] for c in _COLUMNS}} for m, of in measured.items()},
            published,
            f"Table {number}",
        ),
    )


def prompting_table(measured: Mapping[str, Mapping[str, Details]]) -> Table:
    """Ways to ask side by side: a row a model and benchmark, a column a mode.

    Args:
        measured: details by model and mode.
    """
    modes = [mode for mode in MODES if any(mode in of for of in measured.values())]
    rows: list[tuple[str, list[str]]] = []
    for model, by_mode in measured.items():
        names = dict.fromkeys(name for details in by_mode.values() for name in details)
        for name in names:
            cells = [score_cell(by_mode.get(mode, {}).get(name)) for mode in modes]
            rows.append((model, [_title(name), *cells]))
    notes = [
        "direct: the answer alone; few-shot: worked examples with answers alone; few-shot-cot: with their chain of "
        "thought; zero-shot-cot: “Let's think step by step”; r1: the R1-Zero template.",
        f"The paper reports that few-shot prompting hurts DeepSeek-R1 and asks it zero-shot ({SOURCE}, section 5).",
        *_shot_effects(measured),
    ]
    return Table(
        "prompting",
        "Ways to ask (pass@1 in percent, 95 % interval)",
        (Column("", "Benchmark"), *(Column("", mode) for mode in modes)),
        tuple(rows),
        tuple(notes),
    )


def _shot_effects(measured: Mapping[str, Mapping[str, Details]]) -> list[str]:
    """What the worked examples did here, in words: few-shot chain of thought against zero-shot."""
    notes = []
    for model, by_mode in measured.items():
        few, zero = by_mode.get("few-shot-cot", {}), by_mode.get("zero-shot-cot", {})
        for name in few:
            if name in zero:
                change = 100 * (few[name]["pass@1"] - zero[name]["pass@1"])
                notes.append(f"{model}, {_title(name)}: few-shot-cot minus zero-shot-cot is {change:+.1f} points.")
    return notes


def score_cell(of: Mapping[str, Any] | None) -> str:
    """`83.9 (81.2 – 86.3)`, or a dash."""
    if of is None:
        return MISSING
    low, high = of["pass@1_ci"]
    return f"{percent(of['pass@1'])} ({percent(low)} – {percent(high)})"


def _cons_cell(of: Mapping[str, Any] | None) -> str:
    if of is None or of["cons@k"] is None:
        return MISSING
    mark = "" if of["k"] == _CONS_OF_PAPER else f" (cons@{of['k']})"
    return percent(of["cons@k"]) + mark


def _published_cell(number: float | None) -> str:
    return MISSING if number is None else f"{number:g}" if number >= 200 else f"{number:.1f}"


def _title(name: str) -> str:
    return benchmarks()[name].title if name in benchmarks() else name


def _block(name: str) -> str:
    return benchmarks()[name].group if name in benchmarks() else "Other"


def _metric(name: str, measured: Mapping[str, Details]) -> str:
    return next(str(details[name]["metric"]) for details in measured.values() if name in details)


def _notes(measured: Mapping[str, Details], published: bool, table: str) -> tuple[str, ...]:
    """The protocol of each number; models with the same protocol share a line."""
    lines: dict[str, list[str]] = {}
    for model, details in measured.items():
        for name, of in details.items():
            lines.setdefault(f"{_title(name)}: {how(of)}.", []).append(model)
    notes = [line if len(of) == len(measured) else f"{', '.join(of)}: {line}" for line, of in lines.items()]
    if published:
        notes.append(f"{_PUBLISHED} published numbers, not measured here: {SOURCE}, {table}.")
    return tuple(notes)


def paper_tables(measured: Mapping[str, Details], published: bool) -> Sequence[Table]:
    """Those of the three tables that have something to show."""
    tables = [overview(measured, published)]
    named = {name for _, _, name in _COLUMNS}
    if published or any(named & set(details) for details in measured.values()):
        tables += [reasoning(measured, published, 5), reasoning(measured, published, 6)]
    return tables
