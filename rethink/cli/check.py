"""`rethink check`: tests whether a recipe can work, before hours are spent on it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb, whole
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rich.console import Console

    from rethink.check.found import Report

EXAMPLES = """\
  rethink check quickstart                            print a table of measurements, and the problems
  rethink check my.yaml rollout.group_size=16         override values, as for `rethink train`
  rethink check my.yaml --prompts 0                   check gold answers, prompts and cheats only: no sampling
  rethink check my.yaml --json                        print one JSON object
  rethink check r1                                    check each stage of a pipeline that scores completions

exit codes: 0 no problem (perhaps warnings); 1 a problem was found; 2 the recipe is refused
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `check`."""
    parser = verb(verbs, "check", "test in a minute or two whether a recipe can work", EXAMPLES, run)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="override values of the recipe")
    parser.add_argument(
        "--prompts",
        type=whole(0),
        default=16,
        metavar="N",
        help="the most groups to sample (default: 16); 0 samples none",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Check and print. Returns 1 if a problem was found."""
    from rethink.recipe.recipe_files import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)

    from rethink.check.recipe_check import check
    from rethink.check.stage_check import checkables
    from rethink.machine.allocator import tune_allocator

    tune_allocator()
    found = checkables(recipe)

    def note(text: str) -> None:
        if not args.json:
            say(f"checking {text} …", file=sys.stderr)

    reports = []
    for one in found:
        if one.stage is not None:
            note(f"stage {one.stage}")
        report = check(one.recipe, one.how, prompts=args.prompts if one.sampled else 0, note=note)
        report.left_out = list(one.left_out)
        reports.append((one.stage, report))
        if not args.json:
            show(report, make_console())
    ok = all(report.ok for _, report in reports)
    if args.json:
        if found[0].stage is None:
            print_json(reports[0][1].to_dict())
        else:
            stages = {str(stage): report.to_dict() for stage, report in reports}
            print_json({"recipe": recipe.name, "ok": ok, "stages": stages})
    elif len(reports) > 1:
        wrong = [str(stage) for stage, report in reports if not report.ok]
        say(f"\n{len(reports)} stages checked; " + (f"problems in {', '.join(wrong)}." if wrong else "no problems."))
    return 0 if ok else 1


def show(report: Report, console: Console) -> None:
    """The table of numbers, the cheats, and the findings."""
    from rich.table import Table

    marks = {f.section: f.level for f in reversed(report.findings)}
    table = Table(title=f"{report.recipe}: {report.seconds:.0f} s", title_justify="left")
    table.add_column("")
    table.add_column("measured")
    table.add_column("", justify="right")
    for name, values in report.sections.items():
        for i, line in enumerate(_lines(name, values)):
            table.add_row(name if i == 0 else "", line, marks.get(name, "ok") if i == 0 else "")
    console.print(table)
    if report.sections.get("cheats", {}).get("rows"):
        console.print(_cheats(report.sections["cheats"]))
    for finding in report.findings:
        console.print(f"\n{finding.level}: {finding.section}: {finding.message}")
    problems = sum(finding.level == "problem" for finding in report.findings)
    warnings = len(report.findings) - problems
    if report.left_out:
        console.print(f"\nleft out: {'; '.join(report.left_out)}")
    console.print(f"\n{problems} problems, {warnings} warnings.")


def _cheats(values: dict[str, Any]) -> Any:
    from rich.table import Table

    rows = [values["right_answer"], *values["rows"]]
    table = Table(title=f"what completions earn ({values['problems']} problems)", title_justify="left")
    table.add_column("completion")
    table.add_column("reward", justify="right")
    for part in rows[0]["parts"]:
        table.add_column(part, justify="right")
    for row in rows:
        table.add_row(row["name"], f"{row['reward']:.2f}", *(f"{value:.2f}" for value in row["parts"].values()))
    return table


def _lines(section: str, v: dict[str, Any]) -> list[str]:
    """The numbers of a section as text."""
    if section == "gold":
        return [f"{v['full_marks']} of {v['problems']} gold answers get full marks, {v['unreadable']} cannot be read"]
    if section == "prompts":
        return [
            f"{v['mean']:.0f} tokens on average, {v['longest']} at most, plus {v['max_new_tokens']} new tokens in a "
            f"context of {v['context']}; {v['over']} of {v['problems']} do not fit"
        ]
    if section == "examples":
        return [f"{v['examples']} in the prompt, {len(v['without_answer'])} without an answer that the rule finds"]
    if section == "cheats":
        return [f"{len(v['rows'])} kinds of cheats, tried on {v['problems']} problems (table below)"]
    if section == "signal":
        return _signal(v)
    if section == "length":
        return [
            f"{v['mean']:.0f} tokens on average; {v['truncated']:.0%} cut at {v['limit_sampled']}; "
            f"{v['tokens_per_second'] or 0:.0f} tokens/s"
        ]
    if section == "rewards":
        failures = ", ".join(f"{part} {f['share']:.0%}" for part, f in v["failures"].items()) or "none"
        return [f"{v['seconds_each'] * 1e3:.2f} ms per completion; failures: {failures}"]
    hours = f", {v['hours']:.1f} hours in all" if v["hours"] is not None else ""
    return [
        f"about {v['seconds_per_step'] or 0:.1f} s per step ({v['dtype']} on {v['device']}, completions of "
        f"{v['completion_tokens']} tokens), rewards {v['reward_seconds_per_step']:.1f} s of it{hours}",
        f"{v['memory_least_gb']:.1f} to {v['memory_most_gb']:.1f} GiB; free: {v['memory_available_gb']:.1f} GiB",
    ]


def _signal(v: dict[str, Any]) -> list[str]:
    low, high = v["solved_interval"]
    answered = "no reward reads an answer" if v["answered"] is None else f"{v['answered']:.0%} give an answer"
    return [
        f"{v['prompts']} groups of {v['group_size']}: {v['solved'] or 0:.1%} right ({low:.1%} – {high:.1%}), "
        f"{answered}",
        f"prompts solved never {v['prompts_solved_never']:.0%}, sometimes {v['prompts_solved_sometimes']:.0%}, always "
        f"{v['prompts_solved_always']:.0%}",
        f"groups without signal {v['no_signal']:.0%} (below {v['no_signal_below']:.0%}, above "
        f"{v['no_signal_above']:.0%})",
    ]
