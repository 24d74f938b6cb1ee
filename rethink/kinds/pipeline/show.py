"""What a pipeline would do (`--dry-run`), and what the terminal says of one that finished."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from rethink.kinds.closing import program
from rethink.kinds.pipeline.plan import Plan, plan_pipeline
from rethink.kinds.pipeline.selection import Selection
from rethink.plan.estimate_text import seconds_text, size_text
from rethink.plan.gpus import RATE
from rethink.recipe.base import AnyRecipe
from rethink.recipe.kind import Planned
from rethink.runs.planning import measure_rates
from rethink.terminal import make_console, say

SHOWN_METRICS = ("accuracy", "format", "language", "readability", "length")


def plan(recipe: AnyRecipe, *, out: Path | None = None, selection: Selection | None = None) -> Planned:
    """What each stage would do and take.

    Args:
        recipe: of a kind that is made of stages.
        out: the pipeline's folder, to know what is done; None: `runs/` and its name.
        selection: a part of the graph; None: all of it.
    """
    threads, device = getattr(recipe, "threads", None), getattr(recipe, "device", "auto")
    dtype, rates = measure_rates(threads, device, "auto")
    found = plan_pipeline(recipe, out or Path("runs") / recipe.name, rates=rates, selection=selection)
    facts = {
        "dtype": dtype,
        "stages": [asdict(stage) for stage in found.stages],
        "total": {
            "tokens": found.total("tokens"),
            "flops": found.total("flops"),
            "seconds": found.total("seconds"),
            "disk_peak_bytes": found.disk_peak_bytes,
        },
    }
    head = f"{recipe.name}: {recipe.description}\n" if recipe.description else recipe.name
    return Planned(facts, "\n".join([head, _stages_text(found), *_total_lines(found, dtype)]), whole_recipe=False)


def _stages_text(plan: Plan) -> str:
    """A table of the stages."""
    gpus = any(stage.gpus for stage in plan.stages)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("stage", "kind", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "FLOPs", "time", "memory", "disk kept", *(("H800", "GPU hours") if gpus else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in plan.stages:
        cells = [
            "?" if stage.tokens is None else f"{stage.tokens:,.0f}",
            "?" if stage.flops is None else f"{stage.flops:.2g}",
            "?" if stage.seconds is None else seconds_text(stage.seconds).removeprefix(", about "),
            "" if stage.memory_bytes is None else size_text(stage.memory_bytes),
            "" if not stage.disk_kept_bytes else size_text(stage.disk_kept_bytes),
        ]
        if stage.gpus:
            cells += [f"{stage.gpus.number} x {size_text(stage.gpus.bytes_each)}", f"{stage.gpus.hours:,.0f}"]
        table.add_row(stage.name, stage.kind, stage.state, *cells)
    text = io.StringIO()
    make_console(file=text, width=max(130, make_console().width)).print(table)
    return text.getvalue()


def _total_lines(plan: Plan, dtype: str) -> list[str]:
    lines = [
        f"{len(plan.left)} of {len(plan.stages)} stages to run: at most {plan.total('tokens'):,.0f} tokens, "
        f"{plan.total('flops'):.3g} operations{seconds_text(plan.total('seconds'))} on this machine in {dtype}; "
        f"the folder takes at most {size_text(plan.disk_peak_bytes)} at a time."
    ]
    if any(stage.gpus for stage in plan.stages):
        hours = sum(stage.gpus.hours for stage in plan.left if stage.gpus)
        lines.append(
            f"On H800 of 80 GB: {hours:,.0f} GPU hours at {RATE:.0e} operations a second each. A stage needs at least "
            "as many as the table says, with everything that lasts spread evenly over them and layers computed again."
        )
    lines.append(
        "Completions are counted at their token limit. `?`: not known before the stages ahead of it have run, or its "
        "data are files that are read then."
    )
    return lines


def show(summary: Mapping[str, Any], out: Path) -> None:
    """The evaluations, what ran, and the paths."""
    results = summary["results"]
    if results:
        names = [name for name in SHOWN_METRICS if any(name in row for row in results.values())]
        table = Table(title="Held-out problems", title_justify="left", title_style="bold")
        table.add_column("model")
        for name in names:
            table.add_column(name, justify="right")
        for label, row in results.items():
            cells = [
                "–" if n not in row else f"{row[n]:.1f}" if n == "length" else f"{100 * row[n]:.1f} %" for n in names
            ]
            table.add_row(label, *cells)
        make_console().print(table)
    ran = [stage["name"] for stage in summary["stages"] if stage["ran"]]
    kept = sum(stage["state"] == "kept" for stage in summary["stages"])
    say(
        f"\n{len(ran)} stages run, {kept} found done, {summary['stages_seconds'] / 60:.1f} min in all stages, "
        f"{size_text(summary['disk_bytes'])} on disk\n"
    )
    say(f"folder  {out}\nreport  {out / 'report.html'}")
    say(f"\nStages: {program()} status {shlex.quote(str(out))}")
