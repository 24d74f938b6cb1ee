"""`rethink compare`: where two evaluations differ, or several runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.errors import UsageError
from rethink.terminal import print_table, say

if TYPE_CHECKING:
    from rethink.eval.comparison import Difference

EXAMPLES = """\
  rethink compare runs/a runs/b runs/c          recipes, curves, and paired differences with the first
  rethink compare evals/base evals/trained
  rethink compare evals/base evals/trained --json
"""
QUESTION_CHARACTERS = 100
SHOWN_STEPS = 12
"""Most rows of a curve; --json has all."""
WIDTH = 140
"""Columns of a table if the output is not a terminal."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `compare`."""
    parser = verb(verbs, "compare", "show where two evaluations, or several runs, differ", EXAMPLES, run)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="two folders of `rethink eval`, or two or more runs"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from rethink.store.run_folder import RunFolder

    if len(args.folders) < 2:
        raise UsageError("compare takes at least two folders: `rethink compare A B`")
    if all(RunFolder.exists(folder) for folder in args.folders):
        return _compare_runs(args)
    if len(args.folders) > 2:
        other = next(folder for folder in args.folders if not RunFolder.exists(folder))
        raise UsageError(
            f"more than two folders must all be runs, and `{other}` holds none; evaluations are compared two at a time"
        )
    from rethink.eval.comparison import compare_folders

    first, second = args.folders
    comparison = compare_folders(first, second)
    if args.json:
        print_json(asdict(comparison))
        return 0
    say(f"A = {comparison.first} ({first})\nB = {comparison.second} ({second})")
    for of in comparison.benchmarks:
        paired = of.paired
        say(
            f"\n{of.benchmark}: {paired.n} problems, A {100 * paired.first:.1f}, B {100 * paired.second:.1f}, B - A = "
            f"{100 * paired.difference:+.1f} points (95 % interval {100 * paired.low:+.1f} to "
            f"{100 * paired.high:+.1f}; p = {paired.p:.3g}, {paired.method})"
        )
        if of.only_first or of.only_second:
            say(f"  left out: {of.only_first} problems that only A has, {of.only_second} that only B has")
        better = sum(d.second > d.first for d in of.differences)
        say(f"  B is better on {better} problems, A on {len(of.differences) - better}")
        for difference in of.differences:
            say(_line(difference))
    return 0


def _compare_runs(args: argparse.Namespace) -> int:
    from rethink.cli.runs import show
    from rethink.eval.run_comparison import compare_runs
    from rethink.observe.report.facts import spread

    comparison = compare_runs(args.folders)
    if args.json:
        print_json(asdict(comparison))
        return 0
    show(comparison.runs)
    heads = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(comparison.runs))]
    say("\n" + "\n".join(f"{head} = {one.folder}" for head, one in zip(heads, comparison.runs, strict=True)))
    _show_columns("where the recipes differ", heads, comparison.recipes.items())
    for metric, curves in comparison.curves.items():
        by_step = [dict(curve) for curve in curves]
        steps = spread(sorted({step for curve in by_step for step in curve}), SHOWN_STEPS)
        rows = [(str(step), [f"{c[step]:.4g}" if step in c else "" for c in by_step]) for step in steps]
        _show_columns(f"{metric} by step", heads, rows)
    for one in comparison.paired:
        of = one.paired
        head = heads[[run.folder for run in comparison.runs].index(one.second, 1)]
        say(
            f"\n{head} - A on {of.n} held-out problems of both: {100 * of.difference:+.1f} points (95 % interval "
            f"{100 * of.low:+.1f} to {100 * of.high:+.1f}; p = {of.p:.3g}, {of.method}); {one.became_right} became "
            f"right, {one.became_wrong} wrong"
        )
    return 0


def _show_columns(title: str, heads: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for head in ("", *heads):
        table.add_column(head, overflow="fold")
    for name, values in rows:
        table.add_row(name, *("–" if value is None else str(value) for value in values))
    say()
    print_table(table, WIDTH)


def _line(difference: Difference) -> str:
    question = " ".join(difference.question.split())
    if len(question) > QUESTION_CHARACTERS:
        question = question[:QUESTION_CHARACTERS].rstrip() + "…"
    gold = "" if difference.gold is None else f"   gold {_short(difference.gold)}"
    return (
        f"  {difference.problem_id}  A {difference.first:.2f} ({_short(difference.first_answer)})  "
        f"B {difference.second:.2f} ({_short(difference.second_answer)}){gold}\n    {question}"
    )


def _short(answer: str | None) -> str:
    if answer is None:
        return "no answer"
    plain = " ".join(answer.split())
    return plain if len(plain) <= 40 else plain[:40].rstrip() + "…"
