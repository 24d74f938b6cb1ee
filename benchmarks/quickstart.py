"""The quickstart with several seeds: held-out accuracy before and after, wall time, peak memory of each.

python benchmarks/quickstart.py                five seeds
python benchmarks/quickstart.py --runs 1 --json
python benchmarks/quickstart.py --reference    each seed on the torch references too: do the kernels learn the same?

`curve` is the accuracy of the sampled completions step by step, `curve_mean` its mean.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import common


def one(seed: int, **environment: str) -> common.Measurement:
    """A whole run in a process of its own; its folder goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        common.run(
            [sys.executable, "-m", "rethink", "train", "quickstart", f"seed={seed}", "--plain", "--out", out],
            **environment,
        )
        summary = json.loads((out / "summary.json").read_text())
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = {key: summary[key] for key in ("wall_s", "peak_rss_mb", "steps", "before", "after")}
    curve = [row["reward/accuracy"] for row in steps if "reward/accuracy" in row]
    which = ", ".join([f"seed {seed}", *(f"{name}={value}" for name, value in environment.items())])
    print(
        f"{which}: accuracy {kept['before']['accuracy']:.3f} -> {kept['after']['accuracy']:.3f}, format "
        f"{kept['before']['format']:.3f} -> {kept['after']['format']:.3f}, {kept['wall_s'] / 60:.1f} min, "
        f"{kept['peak_rss_mb'] / 1024:.2f} GiB",
        flush=True,
    )
    return {
        "seed": seed,
        "accuracy": kept["after"]["accuracy"],
        "accuracy_before": kept["before"]["accuracy"],
        "curve_mean": sum(curve) / len(curve),
        "curve": curve,
        **kept,
    }


def main() -> None:
    parser = common.parser(__doc__, runs=5)
    parser.add_argument("--reference", action="store_true", help="each seed on the torch references too (the peer)")
    a = parser.parse_args()
    ours, peer = itertools.count(), itertools.count()
    reference = (lambda: one(next(peer), RETHINK_KERNELS="reference")) if a.reference else None
    series = common.alternate(a.runs, lambda: one(next(ours)), reference)
    common.finish(
        "quickstart", series, "accuracy", a, unit="held-out accuracy", higher_is_better=True,
        also=["accuracy_before", "curve_mean", "wall_s", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
