"""What benchmarks of a step on rows share: options, and runs that alternate with TRL's on the same file of rows."""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import common

PEERS = common.HERE / "peers"
sys.path.insert(0, str(PEERS))


def step_parser(description: str | None, job: str, unit: str) -> argparse.ArgumentParser:
    """The options. `job`: module of `peers/` that makes the rows; `unit`: what the peer takes several of at once."""
    parser = common.parser(description, runs=2)
    parser.add_argument("--steps", type=int, default=4, help="steps of each run, the first one warm-up (default: 4)")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="as a run chooses")
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16", help="of the peer")
    parser.add_argument("--peer-micro-batch", type=int, default=4, help=f"{unit} in one pass of the peer (default: 4)")
    common.peak_option(parser)
    parser.add_argument("--rows", help=f"file of peers/{job}.py (default: made for the run)")
    parser.add_argument("--measure", action="store_true", help="one measurement of our side")
    return parser


def compare(
    a: argparse.Namespace,
    script: str,
    job: str,
    per_step: int,
    peer: str,
    peer_measurement: Callable[[common.Measurement], common.Measurement],
) -> common.Series:
    """Measure our side and, where its Python is given, the peer's, in turns.

    Args:
        a: as parsed.
        script: that measures ours with `--measure`.
        job: module of `peers/` that makes the rows.
        per_step: rows of a step.
        peer: file of `peers/` that measures the peer's.
        peer_measurement: what counts of what that says.
    """
    with common.embedded_folder(wanted=bool(a.peer_python)) as folder, tempfile.TemporaryDirectory() as output:
        rows = a.rows or str(Path(output) / "rows.jsonl")
        if not a.rows:
            importlib.import_module(job).write(rows, per_step * a.steps)
        ours = [
            sys.executable, script, "--measure", "--rows", rows, "--steps", a.steps,
            "--micro-batch-tokens", a.micro_batch_tokens,
        ]  # fmt: skip
        theirs = [
            a.peer_python, PEERS / peer, "--model", folder, "--rows", rows, "--steps", a.steps,
            "--weights", a.weights, "--micro-batch", a.peer_micro_batch, "--output", Path(output) / "trl",
        ]  # fmt: skip
        return common.alternate(
            a.runs,
            lambda: common.run_json(ours),
            (lambda: peer_measurement(common.run_json(theirs))) if a.peer_python else None,
        )
