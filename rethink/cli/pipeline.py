"""`rethink train` on a recipe of the kind `pipeline` or `distill`: its plan, and what came of it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import print_json, program
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rich.table import Table

    from rethink.kinds.pipeline.plan import Plan
    from rethink.kinds.pipeline.recipe import DistillRecipe, PipelineRecipe
    from rethink.kinds.pipeline.selection import Selection

PIPELINES = ("pipeline", "distill")


def selection_of(args: argparse.Namespace, kind: str) -> Selection | None:
    """What `--from`, `--until` and `--only` ask for; None where none is given.

    Raises:
        UsageError: one is given for a recipe that has no stages.
    """
    from rethink.errors import UsageError
    from rethink.kinds.pipeline.selection import Selection

    given = [
        option
        for option, value in (("--from", args.from_stage), ("--until", args.until), ("--only", args.only))
        if value is not None
    ]
    if not given:
        return None
    if kind not in PIPELINES:
        raise UsageError(
            f"{' and '.join(given)} name stages of a pipeline, but this recipe is of the kind `{kind}`, which has "
            "none. Leave them out"
        )
    return Selection(args.from_stage, args.until, args.only)


def dry_run(
    recipe: PipelineRecipe | DistillRecipe,
    *,
    as_json: bool,
    out: Path | None = None,
    selection: Selection | None = None,
) -> int:
    """Print what each stage would do and take; nothing is run."""
    from rethink.cli.train import measure_rates
    from rethink.kinds.pipeline.plan import plan_pipeline

    dtype, rates = measure_rates(recipe.threads, recipe.device, "auto")
    plan = plan_pipeline(recipe, out or Path("runs") / recipe.name, rates=rates, selection=selection)
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "dtype": dtype,
                "stages": [asdict(stage) for stage in plan.stages],
                "total": {
                    "tokens": plan.total("tokens"),
                    "flops": plan.total("flops"),
                    "seconds": plan.total("seconds"),
                    "disk_peak_bytes": plan.disk_peak_bytes,
                },
            }
        )
        return 0
    _show_plan(recipe, plan, dtype)
    return 0


def _show_plan(recipe: PipelineRecipe | DistillRecipe, plan: Plan, dtype: str) -> None:
    from rethink.plan.gpus import RATE
    from rethink.plan.text import seconds_text

    say(f"{recipe.name}: {recipe.description}\n" if recipe.description else recipe.name)
    make_console(width=max(130, make_console().width)).print(_plan_table(plan))
    say(
        f"\n{len(plan.left)} of {len(plan.stages)} stages to run: at most {plan.total('tokens'):,.0f} tokens, "
        f"{plan.total('flops'):.3g} operations{seconds_text(plan.total('seconds'))} on this machine in {dtype}; "
        f"the folder takes at most {size_text(plan.disk_peak_bytes)} at a time."
    )
    if any(stage.gpus for stage in plan.stages):
        hours = sum(stage.gpus.hours for stage in plan.left if stage.gpus)
        say(
            f"On H800 of 80 GB: {hours:,.0f} GPU hours at {RATE:.0e} operations a second each. A stage needs at least "
            "as many as the table says, with everything that lasts spread evenly over them and layers computed again."
        )
    say(
        "Completions are counted at their token limit. `?`: not known before the stages ahead of it have run, or its "
        "data are files that are read then."
    )


def _plan_table(plan: Plan) -> Table:
    from rich.table import Table

    from rethink.plan.text import seconds_text

    gpus = any(stage.gpus for stage in plan.stages)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("state", no_wrap=True)
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
    return table


def show(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a pipeline: its evaluations, and where things lie."""
    results = summary["results"]
    if results:
        from rich.table import Table

        names = [
            n
            for n in ("accuracy", "format", "language", "readability", "length")
            if any(n in r for r in results.values())
        ]
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


def show_evaluation(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a recipe of the kind `eval`."""
    say(f"\n{summary['problems']} held-out problems, {summary['samples']} completion(s) of each")
    for name, entry in summary["metrics"].items():
        say(f"  {name:<12} {entry['mean']:.3f}  (95 % interval {entry['low']:.3f} to {entry['high']:.3f})")
    say(f"\nfolder  {out}")


def size_text(count: float) -> str:
    """Bytes as text: `1.6 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
