"""The quickstart with several seeds: held-out accuracy before and after, wall time, peak memory of each.

python benchmarks/quickstart.py                five seeds
python benchmarks/quickstart.py --runs 1 --json
"""

import json
import sys
import tempfile
from pathlib import Path

import common


def one(seed: int) -> common.Measurement:
    """A whole run in a process of its own; its folder goes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        common.run([sys.executable, "-m", "rethink", "train", "quickstart", f"seed={seed}", "--plain", "--out", out])
        summary = json.loads((out / "summary.json").read_text())
    kept = {key: summary[key] for key in ("wall_s", "peak_rss_mb", "steps", "before", "after")}
    print(
        f"seed {seed}: accuracy {kept['before']['accuracy']:.3f} -> {kept['after']['accuracy']:.3f}, format "
        f"{kept['before']['format']:.3f} -> {kept['after']['format']:.3f}, {kept['wall_s'] / 60:.1f} min, "
        f"{kept['peak_rss_mb'] / 1024:.2f} GiB",
        flush=True,
    )
    return {"seed": seed, "accuracy": kept["after"]["accuracy"], "accuracy_before": kept["before"]["accuracy"], **kept}


def main() -> None:
    parser = common.parser(__doc__, runs=5)
    a = parser.parse_args()
    series = common.Series(ours=[one(seed) for seed in range(a.runs)])
    common.finish(
        "quickstart", series, "accuracy", a, unit="held-out accuracy", higher_is_better=True,
        also=["accuracy_before", "wall_s", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
