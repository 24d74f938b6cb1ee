"""Runs a pipeline, kills it (SIGKILL) at chosen moments and runs it again: `kill.py RECIPE BASE MOMENT…`.

Every change of a folder goes through fsync, replace or rename. A moment `12b` or `12a` kills the process before or
after its 12th such call; `0.4t` after 0.4 of the time that the whole run took. The whole run goes to BASE/whole, each
killed one to BASE/killed-I. This process imports everything once and forks one child for each attempt.

Prints a JSON object: `calls` of the whole run, and for each moment what was done when it died (`done`, by hash with the
number of attempts) and what the second attempt ran (`ran`).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401 (here and below: imported once, not in each child)

import rethink.kinds.pipeline.run
import rethink.kinds.reward_model.run
import rethink.kinds.samples.run
import rethink.kinds.sft.run
import rethink.runs.session
from rethink.kinds.pipeline.run import run_pipeline
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.store.pipeline_folder import PipelineFolder

# It asks git and the system, again and again, and decides nothing.
rethink.kinds.pipeline.run.environment = rethink.runs.session.environment = dict
RECIPE = load_recipe(sys.argv[1])
BASE = Path(sys.argv[2])


def child(out, at, before):
    """Run in this process, to the end or to the moment; reports the number of calls and what was run."""
    calls = 0

    def watched(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == at and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, watched(getattr(os, name)))
    summary = run_pipeline(RECIPE, out, progress=make_progress("none"))
    report = {"calls": calls, "ran": [stage["hash"] for stage in summary["stages"] if stage["ran"]]}
    (BASE / "attempt.json").write_text(json.dumps(report))


def attempt(out, at=0, before=False, seconds=None):
    """(signal or exit code, report) of one attempt in a child."""
    (BASE / "attempt.json").unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            child(out, at, before)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    file = BASE / "attempt.json"
    return os.waitstatus_to_exitcode(status), json.loads(file.read_text()) if file.exists() else None


def done(out):
    """Number of attempts of each stage that is done, by hash."""
    if not PipelineFolder.exists(out):
        return {}
    records = PipelineFolder.open(out).records()
    return {record.hash: record.attempts for record in records.values() if record.state == "done"}


def main():
    started = time.monotonic()
    code, whole = attempt(BASE / "whole")
    assert code == 0, "the whole run failed"
    took = time.monotonic() - started
    found = []
    for number, moment in enumerate(sys.argv[3:]):
        out = BASE / f"killed-{number}"
        if moment.endswith("t"):
            code, _ = attempt(out, seconds=float(moment[:-1]) * took)
        else:
            share = float(moment[:-1])
            at = max(1, round(share * whole["calls"])) if share < 1 else int(share)
            code, _ = attempt(out, at, moment.endswith("b"))
        before = done(out)
        again, report = attempt(out)
        after = done(out)
        found.append(
            {
                "moment": moment,
                "died": code,
                "again": again,
                "done": before,
                "after": after,
                "ran": report and report["ran"],
            }
        )
    print(json.dumps({"calls": whole["calls"], "moments": found}))


main()
