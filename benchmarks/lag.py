"""Steps an hour with lag 1 against lag 0: one core samples, in a worker, and one trains.

    python benchmarks/lag.py
    python benchmarks/lag.py --steps 8 model.dtype=bfloat16 rollout.max_new_tokens=96

The recipe is the quickstart without evaluation; the time is that from the end of the second step to that of the last.
"""

import json
import sys
import tempfile
from pathlib import Path

import common

CLUSTER = "workers: 1\nthreads: 1\n"


def one(a, lag: int) -> common.Measurement:
    """A run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out, cluster = Path(folder) / "run", Path(folder) / "cluster.yaml"
        cluster.write_text(CLUSTER)
        common.run([
            sys.executable, "-m", "rethink", "train", "quickstart", f"steps={a.steps}", "threads=1",
            f"rollout.lag={lag}", "evaluation.problems=8", "evaluation.every=null", "checkpoint.every=100",
            *a.overrides, "--cluster", cluster, "--plain", "--out", out,
        ])  # fmt: skip
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        batches = sorted((out / "rollouts").glob("batch-*"))
    steps = [row for row in rows if "time/step" in row]
    seconds = sum(row["time/step"] for row in steps[2:]) / len(steps[2:])
    return {
        "steps_per_hour": 3600 / seconds,
        "wait_s": [row["time/wait"] for row in steps[2:] if "time/wait" in row],
        "rollout_s": [row["time/rollout"] for row in steps[2:] if "time/rollout" in row],
        "batches": len(batches),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the recipe")
    a = parser.parse_args()
    series = common.alternate(a.runs, lambda: one(a, 1), lambda: one(a, 0))
    common.finish(
        "lag", series, "steps_per_hour", a, unit="steps an hour", higher_is_better=True, also=["wait_s", "rollout_s"]
    )


if __name__ == "__main__":
    main()
