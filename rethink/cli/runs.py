"""`rethink runs`: the runs and pipelines below a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import print_table, say

if TYPE_CHECKING:
    from rethink.observe.run_state import RunState

EXAMPLES = """\
  rethink runs                                            every run in runs/, with state, steps and results
  rethink runs experiments --json                         one JSON object
"""
WIDTH = 120
"""Columns of the table if the output is not a terminal."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `runs`."""
    parser = verb(verbs, "runs", "list the runs and pipelines in a folder", EXAMPLES, run)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs"), metavar="DIR", help="where they are (default: runs)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Read the folders and print; nothing is changed."""
    from rethink.observe.run_state import runs_below

    found = list(runs_below(args.folder))
    if args.json:
        print_json({"folder": str(args.folder), "runs": [asdict(one) for one in found]})
    elif not found:
        say(f"There are no runs in {args.folder}.")
    else:
        show(found)
    return 0


def show(found: Sequence[RunState]) -> None:
    """Print a table with a row for each, and why some cannot be read."""
    from rich.table import Table

    from rethink.observe.number_text import duration

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("run", "kind", "state", "done", "accuracy", "reward", "time", "last written"):
        table.add_column(name, justify="right" if name in ("done", "accuracy", "reward", "time") else "left")
    for one in found:
        reward = (one.metrics or {}).get("reward/mean")
        table.add_row(
            one.folder,
            one.kind,
            one.state,
            done_of(one),
            accuracy_of(one),
            "" if reward is None else f"{reward:.3f}",
            duration(one.seconds) if one.seconds else "",
            one.updated,
        )
    print_table(table, WIDTH)
    for one in found:
        if one.error is not None:
            say(f"\n{one.folder}: {one.error}")


def done_of(one: RunState) -> str:
    """`8 of 24`: steps, or stages."""
    if one.done is None:
        return ""
    return str(one.done) if one.total is None else f"{one.done} of {one.total}"


def accuracy_of(one: RunState) -> str:
    """`0.222 → 0.900`: held-out, before and after."""
    before, after = one.accuracy
    return " → ".join(f"{value:.3f}" for value in (before, after) if value is not None)
