"""`rethink status`: how far a run or a pipeline is, and the lineage of a sample or a model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.kinds.closing import program
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rethink.observe.run_state import RunState

EXAMPLES = """\
  rethink status runs/quickstart                          a run of any kind: steps, results, time, what is lost
  rethink status runs/r1                                  every stage with its state, time and disk space
  rethink status runs/r1 --json
  rethink status runs/r1 --lineage rl2                    recipe, seed and inputs of a stage, back to the base model
  rethink status runs/r1 --lineage runs/r1/stages/sft-0123456789ab/model
  rethink status runs/r1 --lineage 5f2c9d1a0b7e4c33       the lineage of a sample, by its id
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `status`."""
    parser = verb(verbs, "status", "show how far a run or pipeline is, or the lineage of a sample", EXAMPLES, run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run or a pipeline")
    parser.add_argument(
        "--lineage",
        metavar="WHAT",
        help="pipelines: show what a stage, a path in DIR, or a sample or problem (by its id) was made from",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Read the folder and print; nothing is changed."""
    from rethink.kinds.pipeline.status import lineage, status
    from rethink.store.pipeline_folder import PipelineFolder

    if args.lineage is None and not PipelineFolder.exists(args.folder):
        return _run_status(args.folder, as_json=args.json)
    folder = PipelineFolder.open(args.folder)
    if args.lineage is not None:
        found = lineage(folder, args.lineage)
        if args.json:
            print_json(found)
        else:
            _show_lineage(found)
        return 0
    state = status(folder)
    if args.json:
        print_json(state)
    else:
        _show(state)
    return 0


def _run_status(path: Path, *, as_json: bool) -> int:
    """Of a run that is no pipeline."""
    from rethink.observe.run_state import state_of
    from rethink.store.cluster_log import losses
    from rethink.store.completeness import lost_parts
    from rethink.store.pipeline_folder import disk_bytes
    from rethink.store.run_folder import RunFolder

    state = state_of(path)
    found = asdict(state) | {"disk_bytes": disk_bytes(path), "lost_workers": losses(path)}
    found["lost"] = [] if state.error is not None else lost_parts(RunFolder.open(path))
    if as_json:
        print_json(found)
    else:
        _show_run(state, found)
    return 0


def _show_run(state: RunState, found: Mapping[str, Any]) -> None:
    from rethink.cli.runs import accuracy_of, done_of
    from rethink.observe.number_text import duration
    from rethink.plan.estimate_text import size_text

    say(f"{state.folder}: {state.name} ({state.kind}), {state.state}")
    if state.error is not None:
        say(state.error)
        return
    lines = {
        "steps": done_of(state),
        "accuracy": accuracy_of(state),
        **{name: f"{value:.4g}" for name, value in (state.metrics or {}).items()},
        "time": duration(state.seconds) if state.seconds else "",
        "left": "" if state.left is None else duration(state.left),
        "disk": size_text(found["disk_bytes"]),
        "recipe": state.recipe_hash[:12],
        "written": f"{state.updated} UTC",
    }
    for name, text in lines.items():
        if text:
            say(f"  {name:<14}{text}")
    for sentence in found["lost"]:
        say(sentence)
    for loss in found["lost_workers"][-1:]:
        say(f"{len(found['lost_workers'])} workers or trainer ranks were lost, and others started: {loss['cause']}")
    if state.state == "stopped":
        say(f"To go on: {program()} train {shlex.quote(state.folder)} --resume")


def _show(state: Mapping[str, Any]) -> None:
    from rich.table import Table

    from rethink.observe.number_text import duration
    from rethink.plan.estimate_text import size_text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("stage", "kind", "state", "steps", "time", "disk", "hash", "uses"):
        table.add_column(name, no_wrap=name != "uses", justify="right" if name in ("steps", "time", "disk") else "left")
    for stage in state["stages"]:
        table.add_row(
            stage["name"],
            stage["kind"],
            stage["state"],
            "" if stage["steps"] is None else str(stage["steps"]),
            duration(stage["seconds"]) if stage["seconds"] else "",
            size_text(stage["disk_bytes"]) if stage["disk_bytes"] else "",
            stage["hash"][:12],
            ", ".join(stage["inputs"]),
        )
    make_console(width=max(110, make_console().width)).print(table)
    for stage in state["stages"]:
        if stage["error"]:
            say(f"\n{stage['name']} failed: {stage['error']}")
        for sentence in stage["damage"]:
            say(f"\n{stage['name']} is damaged: {sentence}")
    if lost := state["lost"]:
        last = " of ".join(str(lost[-1][key]) for key in ("worker", "host") if lost[-1].get(key))
        say(f"\n{len(lost)} workers or trainer ranks were lost, and others started. {last}: {lost[-1]['cause']}")
    done = sum(stage["state"] == "done" for stage in state["stages"])
    say(
        f"\n{done} of {len(state['stages'])} stages done, {size_text(state['disk_bytes'])} on disk, of which "
        f"`rethink clean` would free {size_text(state['cleanable_bytes'])}"
    )


def _show_lineage(found: Mapping[str, Any]) -> None:
    sample = found["sample"]
    if sample is not None:
        say("sample")
        for key, value in sample.items():
            shown = str(value)
            say(f"  {key}: {shown if len(shown) <= 200 else shown[:200] + '…'}")
    for heading, stage in (("made by", found["made_by"]), *(("from", entry) for entry in found["from"])):
        say(
            f"{heading} {stage['stage']} ({stage['kind']}): hash {stage['hash'][:12]}, seed {stage['seed']}, "
            f"commit {stage['commit']}, {stage['state']}\n  {stage['folder']}"
        )
    say("\nFor the resolved recipes: --json, or recipe.yaml in each folder")
