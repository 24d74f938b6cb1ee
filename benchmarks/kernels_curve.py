"""Do the native kernels learn what the torch references learn? A run, and the same rollouts trained on again without
kernels: sampling has no part in what differs then, and it has a large one where two runs sample for themselves.

    python benchmarks/kernels_curve.py              the quickstart, three seeds, and their replays on the references
    python benchmarks/kernels_curve.py --runs 1 --steps 3 --json
    python benchmarks/kernels_curve.py --sampled-by reference --first-seed 2 --runs 1
                                                    the references sample, the kernels replay

Step by step: entropy, gradient norm; at the end the mean held-out score (some tasks give a wrong answer a small part of
1), and its difference over the same problems.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

CURVES = {
    "accuracy_sampled": "reward/accuracy",
    "entropy": "policy/entropy",
    "grad_norm": "optimizer/grad_norm",
}


def train(out: Path, a: Any, seed: int, kernels: str, *more: str) -> None:
    """The recipe's run in `out`, in a process of its own."""
    extra = [] if a.steps is None else [f"steps={a.steps}"]
    common.run(
        [sys.executable, "-m", "rethink", "train", a.recipe, f"seed={seed}", *extra, *more, "--plain", "--out", out],
        RETHINK_KERNELS=kernels,
    )


def prepare_replay(first: Path, second: Path) -> None:
    """A run that has done no step but has every rollout batch of another: it trains on these as after a crash."""
    from rethink.store.run_folder import RunFolder

    run = RunFolder.open(first)
    choices = {name: value for name, value in run.choices.items() if name != "kernels"}
    RunFolder.create(
        second,
        recipe_yaml=run.recipe_yaml,
        recipe_hash=run.recipe_hash,
        environment=run.environment,
        choices=choices,
    )
    shutil.copytree(first / "rollouts", second / "rollouts")


def measurement(folder: Path, seed: int, kernels: str) -> common.Measurement:
    """The curves of a run and how it ended; None at a step that trained on nothing, since no group had a signal."""
    from rethink.store.run_folder import RunFolder

    run = RunFolder.open(folder)
    rows = [row for row in run.metrics() if row["step"]]
    last = run.read_samples(run.samples()[-1]) or []
    return {
        "seed": seed,
        "kernels": kernels,
        "accuracy": rows[-1]["eval/accuracy"],
        **{name: [row.get(metric) for row in rows] for name, metric in CURVES.items()},
        "scores": [float(row["accuracy"]) for row in last],
    }


def pair(a: Any, seed: int, sampled_by: str, replayed_by: str) -> tuple[common.Measurement, common.Measurement]:
    """A run and its replay."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        train(first, a, seed, sampled_by)
        prepare_replay(first, second)
        train(second, a, seed, replayed_by, "--resume")
        runs = measurement(first, seed, sampled_by), measurement(second, seed, replayed_by)
    report(*runs)
    return runs


def report(first: common.Measurement, second: common.Measurement) -> None:
    """Both curves, step by step, and the difference at the end."""
    from rethink.eval.statistics.estimates import paired_comparison

    print(f"seed {first['seed']}: sampled with {first['kernels']} kernels, replayed with {second['kernels']}")
    print("step  sampled accuracy   entropy         gradient norm")
    for step, sampled in enumerate(first["accuracy_sampled"]):
        curves = [run[name][step] for name in ("entropy", "grad_norm") for run in (first, second)]
        values = ("    –" if value is None else f"{value:.3f}" for value in curves)
        print(f"{step + 1:4}  {sampled:16.3f}   {'  '.join(values)}")
    p = paired_comparison(first.pop("scores"), second.pop("scores"))
    second["difference"], second["low"], second["high"], second["p"] = p.difference, p.low, p.high, p.p
    print(
        f"held-out score {p.first:.3f} and {p.second:.3f}: {p.difference:+.3f} ({p.low:+.3f} to {p.high:+.3f}, "
        f"p {p.p:.2f})",
        flush=True,
    )


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--recipe", default="quickstart", help="any GRPO recipe with accuracy among its rewards")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sampled-by", choices=("auto", "reference"), default="auto", help="which kernels sample")
    a = parser.parse_args()
    replayed_by = "reference" if a.sampled_by == "auto" else "auto"
    series = common.Series()
    for seed in range(a.first_seed, a.first_seed + a.runs):
        first, second = pair(a, seed, a.sampled_by, replayed_by)
        native, reference = (first, second) if a.sampled_by == "auto" else (second, first)
        series.ours.append(native)
        series.peer.append(reference)
    common.finish("kernels_curve", series, "accuracy", a, unit="held-out accuracy", higher_is_better=True)


if __name__ == "__main__":
    main()
