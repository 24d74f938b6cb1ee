"""The GPU check: each stage in a process of its own, with a time limit; the results so far are written after each.

    stage ─► process ─► JSON ─► gpu-check.json ─► next stage

A stage that fails, hangs or crashes costs only itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rethink.check.gpu.job import Job
from rethink.check.gpu.stages import STAGES
from rethink.errors import UsageError

BUDGET = 600.0
"""Seconds for all stages."""


def check_gpu(
    job: Job,
    out: Path,
    names: Sequence[str] = tuple(STAGES),
    budget: float = BUDGET,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run stages and return what each found; `out` holds the same after every stage.

    Args:
        job: where, and how much.
        out: a JSON file.
        names: of the stages.
        budget: seconds for all: a stage that does not fit any more is not begun.
        note: told of each stage.

    Raises:
        UsageError: a stage has no such name, or there is no CUDA device.
    """
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UsageError(f"there is no stage `{unknown[0]}`; the stages are {', '.join(STAGES)}")
    if job.device == "cuda":
        _check_cuda()
    results: dict[str, Any] = {"job": asdict(job), "stages": {}}
    started = time.monotonic()
    for name in names:
        left = budget - (time.monotonic() - started)
        note(f"{name}: {STAGES[name].what}")
        found = _in_process(name, job, min(STAGES[name].seconds, left)) if left > 5 else {"skipped": "no time left"}
        results["stages"][name] = found
        out.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        for line in failures(found):
            note(f"  FAILED: {line}")
    return results


def failures(found: dict[str, Any]) -> list[str]:
    """What of a stage's findings must not be."""
    return [*found.get("failed", ()), *([found["error"]] if "error" in found else [])]


def _check_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            "torch finds no CUDA device here. Run this check where there is one; `--device cpu --small` tries the "
            "check itself, with little work on this processor"
        )


def _in_process(name: str, job: Job, seconds: float) -> dict[str, Any]:
    """A stage's findings, with its seconds; `error` where it ended otherwise."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        words = [sys.executable, "-P", "-c", _PROGRAM, name, json.dumps(asdict(job)), str(target), *_PATH]
        try:
            done = subprocess.run(words, timeout=seconds, capture_output=True, text=True, check=False)
            found: dict[str, Any] = (
                json.loads(target.read_text("utf-8")) if target.exists()
                else {"error": f"the process ended with {done.returncode}: {done.stderr[-2000:]}"}
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            found = {"error": f"not done after {seconds:.0f} s"}
    return found | {"seconds": round(time.monotonic() - started, 2)}


_PATH = [str(Path(__file__).resolve().parents[3])]
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[4]); from rethink.check.gpu.run import main; main(*sys.argv[1:4])"


def main(name: str, job: str, target: str) -> None:
    """The process of a stage."""
    try:
        found = STAGES[name].run(Job(**json.loads(job)))
    except Exception as error:
        last = traceback.format_exc(limit=-4)
        found = {"error": f"{type(error).__name__}: {error}", "traceback": last}
    Path(target).write_text(json.dumps(found), "utf-8")
