"""`rethink score`: rewards of recorded completions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, real, verb
from rethink.errors import UsageError
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rethink.rewards.recorded import Scored

EXAMPLES = """\
  rethink score --reward math --data answers.jsonl --gold gold --completion response --out scored.jsonl
  rethink score --reward math,format --data runs/zero --out scored.jsonl          every rollout of a run
  rethink score --reward my_rewards:brevity --data answers.jsonl --out scored.jsonl
  rethink score --reward math --data labelled.jsonl --expect match --strict --out scored.jsonl
  rethink score --reward overlong --option overlong.max_completion_len=512 \\
      --option overlong.soft_punish_cache=64 --data answers.jsonl --out scored.jsonl
"""

LISTED = 20
"""The most disagreements that are printed; the JSON summary has all."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `score`."""
    parser = verb(verbs, "score", "apply rewards to recorded completions", EXAMPLES, run)
    parser.add_argument(
        "--reward",
        required=True,
        metavar="NAME[,NAME…]",
        help="built-in rewards, reasoning-gym tasks, or your own module:function; several scores are added",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="JSONL, Parquet, or a run folder")
    parser.add_argument("--gold", metavar="KEY", help="key of the gold answer (default: gold, answer, …)")
    parser.add_argument("--completion", metavar="KEY", help="key of the text (default: completion, response, pred, …)")
    parser.add_argument("--expect", metavar="KEY", help="key of a recorded verdict or score to compare with")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a row disagrees with --expect")
    parser.add_argument("--option", action="append", default=[], metavar="NAME.KEY=VALUE", help="option of a reward")
    parser.add_argument("--seconds", type=real(0, open_low=True), default=5.0, help="limit of one call (default: 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSONL: {id, score, parts, failure}")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Score, write the rows, and print the summary."""
    from rethink.rewards.recorded import Keys, read_data, score_rows, summarise
    from rethink.rewards.rubric import Limits
    from rethink.store.atomic import replacing

    names = [name.strip() for name in args.reward.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--reward is {args.reward!r}; name each reward once, such as math,format")
    rows = read_data(args.data)
    keys = Keys(args.gold, args.completion, args.expect)
    scored = list(score_rows(rows, names, keys, _options(args.option), Limits(seconds=args.seconds)))
    with replacing(args.out) as temporary:
        lines = (json.dumps(row.row(), ensure_ascii=True, allow_nan=False) for row in scored)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = summarise(scored, names)
    if args.json:
        print_json(summary | {"out": str(args.out)})
    else:
        _show(summary, scored, args)
    return 1 if args.strict and summary["disagreements"] else 0


def _options(given: list[str]) -> dict[str, dict[str, Any]]:
    import yaml

    options: dict[str, dict[str, Any]] = {}
    for text in given:
        path, equals, value = text.partition("=")
        name, dot, key = path.rpartition(".")
        if not equals or not dot or not name or not key:
            raise UsageError(f"--option is {text!r}; write it as reward.option=value, such as repetition.ngram_size=4")
        try:
            options.setdefault(name, {})[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--option {text!r}: the value is not valid YAML ({error})") from error
    return options


def _show(summary: Mapping[str, Any], scored: list[Scored], args: argparse.Namespace) -> None:
    from rich.table import Table

    table = Table("reward", "scored", "mean", "full marks", "zero", "abstained", "failed")
    whole = [("all", summary["score"])] if len(summary["parts"]) > 1 else []
    for name, part in [*summary["parts"].items(), *whole]:
        mean = "–" if part["mean"] is None else f"{part['mean']:.4f}"
        causes = ", ".join(f"{cause} {count}" for cause, count in part["causes"].items())
        failed = f"{part['failed']}{f' ({causes})' if causes else ''}"
        counts = [str(part[key]) for key in ("scored", "full", "zero", "abstained")]
        table.add_row(name, counts[0], mean, counts[1], counts[2], counts[3], failed)
    make_console().print(table)
    say(f"{summary['rows']} rows  {args.data}\nwritten  {args.out}")
    unread = [row.unread for row in scored if row.unread is not None]
    if unread:
        say(f"{len(unread)} rows could not be scored and count as failed; the first: {unread[0]}")
    if args.expect is None:
        return
    wrong = [row for row in scored if row.agrees is False]
    say(f"{args.expect}: {summary['compared'] - len(wrong)} of {summary['compared']} rows agree")
    for row in wrong[:LISTED]:
        said = "abstains" if row.score is None else f"{row.score:g}"
        failure = row.row()["failure"]
        say(f"  {row.id}: {said}, expected {row.expected}{f' ({failure})' if failure else ''}")
    if len(wrong) > LISTED:
        say(f"  … and {len(wrong) - LISTED} more (all of them with --json)")
