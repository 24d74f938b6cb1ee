"""`rethink gpu-check`: whether a GPU computes what the CPU does, and how fast."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

EXAMPLES = """\
  rethink gpu-check
  rethink gpu-check --only parity --only engine
  rethink gpu-check --device cpu --small                    try the check itself, without a GPU
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `gpu-check`."""
    parser = verb(verbs, "gpu-check", "compare a GPU with the CPU, and measure its speed (10 minutes)", EXAMPLES, run)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute (default: cuda)")
    parser.add_argument("--small", action="store_true", help="little work, on a small model")
    parser.add_argument("--only", action="append", metavar="STAGE", help="one stage; repeatable (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check.json"), metavar="FILE", help="results (default: gpu-check.json)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the stages; exit code 1 where one of them failed."""
    from rethink.check.gpu.job import Job
    from rethink.check.gpu.run import check_gpu, failures
    from rethink.check.gpu.stages import STAGES

    def note(text: str) -> None:
        say(text, file=sys.stderr, flush=True)

    results = check_gpu(Job(args.device, args.small), args.out, args.only or tuple(STAGES), note=note)
    if args.json:
        print_json(results)
    else:
        for name, found in results["stages"].items():
            say(_lines(name, found))
        say(f"\nresults {args.out}")
    return int(any(failures(found) for found in results["stages"].values()))


def _lines(name: str, found: dict[str, Any]) -> str:
    """A stage's numbers, one a line."""
    rows = [f"{name}"]
    for key, value in found.items():
        if key in ("failed", "error", "traceback"):
            continue
        for inner, number in value.items() if isinstance(value, dict) else [("", value)]:
            label = f"{key} {inner}".strip()
            rows.append(f"  {label:<34} {number:.4g}" if isinstance(number, float) else f"  {label:<34} {number}")
    return "\n".join(rows)
