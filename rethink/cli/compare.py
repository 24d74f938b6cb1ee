"""`rethink compare`: where two evaluations differ."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.eval.comparison import Difference

EXAMPLES = """\
  rethink compare evals/base evals/trained
  rethink compare evals/base evals/trained --json
"""
QUESTION_CHARACTERS = 100


def add_parser(verbs: Verbs) -> None:
    """Add the verb `compare`."""
    parser = verb(verbs, "compare", "show where two evaluations differ, problem by problem", EXAMPLES, run)
    parser.add_argument("first", type=Path, metavar="A", help="a folder of `rethink eval`")
    parser.add_argument("second", type=Path, metavar="B", help="a second one, on the same problems")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from rethink.eval.comparison import compare_folders

    comparison = compare_folders(args.first, args.second)
    if args.json:
        print_json(asdict(comparison))
        return 0
    say(f"A = {comparison.first} ({args.first})\nB = {comparison.second} ({args.second})")
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
