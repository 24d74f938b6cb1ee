"""What the benchmarks share: options, runs that alternate with a peer, medians, and the closing JSON line.

A benchmark measures one quantity of ours and, with `--peer-python`, the peer's on the same job, in turns: noise of the
machine then meets both. Each measurement is a process of its own, so that peak memory is its own too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "results" / "measurements.jsonl"
"""What was measured when, on which machine and commit: one line a run of a benchmark with `--record`."""
Measurement = dict[str, Any]
"""What one run gave: the JSON object on its last line."""


def parser(description: str | None, runs: int = 3) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=runs, help=f"measurements of each side (default: {runs})")
    options.add_argument("--peer-python", metavar="PATH", help="python of the peer's environment; without it only ours")
    options.add_argument("--json", action="store_true", help="end with one JSON line")
    options.add_argument("--record", action="store_true", help=f"append that line, dated, to {RECORD.name}")
    return options


def peak_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of benchmarks that report GFLOP/s."""
    parser.add_argument(
        "--peak-gflops",
        type=float,
        metavar="N",
        help="the processor's theoretical peak, to show a share of; not measured",
    )


def show_peak(series: Series, options: argparse.Namespace) -> None:
    """The share of the stated peak, where one is stated."""
    ours = median(series.ours, "gflops")
    if ours is not None and options.peak_gflops:
        print(f"{ours / options.peak_gflops:.3f} of the stated peak of {options.peak_gflops:,.0f} GFLOP/s")


def run_json(command: Sequence[str | Path], **environment: str) -> Measurement:
    """Run a command and return the JSON object on the last line that it prints; its other output goes to stderr.

    Raises:
        RuntimeError: it failed, or printed no JSON object last.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        tail = "\n".join(lines[-20:])
        raise RuntimeError(f"`{' '.join(words)}` ended with {done.returncode}:\n{tail}")
    print("\n".join(lines[:-1]), file=sys.stderr)
    try:
        found = json.loads(lines[-1])
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RuntimeError(f"`{' '.join(words)}` printed no JSON object last but: {lines[-1][:200]}")
    return found


def run(command: Sequence[str | Path], **environment: str) -> None:
    """Run a command whose output is for the reader. Raises `CalledProcessError` when it fails."""
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdout=sys.stderr, env={**os.environ, **environment})


@contextlib.contextmanager
def embedded_folder(*, wanted: bool) -> Iterator[Path]:
    """The embedded model as a Hugging Face folder, which peers load; an empty one where it is not wanted."""
    with tempfile.TemporaryDirectory() as folder:
        if wanted:
            from rethink.model.loading import load_checkpoint
            from rethink.model.saving import save_hf_folder

            checkpoint = load_checkpoint("embedded")
            tensors = {name: tensor.float() for name, tensor in checkpoint.tensors.items()}
            save_hf_folder(Path(folder), tensors, checkpoint.hf_config, checkpoint.tokenizer)
        yield Path(folder)


@dataclass
class Series:
    """Measurements of both sides, in the order in which they were made."""

    ours: list[Measurement] = field(default_factory=list)
    peer: list[Measurement] = field(default_factory=list)


def alternate(runs: int, ours: Callable[[], Measurement], peer: Callable[[], Measurement] | None) -> Series:
    """Measure ours, peer, ours, peer, …: `runs` times each."""
    series = Series()
    for number in range(1, runs + 1):
        for name, measure, into in (("ours", ours, series.ours), ("peer", peer, series.peer)):
            if measure is not None:
                print(f"[{number}/{runs}] {name} ...", file=sys.stderr, flush=True)
                into.append(measure())
    return series


def median(measurements: Sequence[Measurement], key: str) -> float | None:
    """Median of a key over the measurements; a list counts each of its entries. None where there is nothing."""
    values: list[float] = []
    for measurement in measurements:
        value = measurement.get(key)
        values += value if isinstance(value, list) else [] if value is None else [value]
    return statistics.median(values) if values else None


def ratio(ours: float | None, peer: float | None, *, higher_is_better: bool) -> float | None:
    """How many times as good ours is; None where one side was not measured."""
    if not ours or not peer:
        return None
    return ours / peer if higher_is_better else peer / ours


def machine() -> dict[str, Any]:
    """The processor that the numbers hold for."""
    from rethink.machine.limits import usable_threads
    from rethink.store.environment import processor

    return {**processor(), "threads": usable_threads(), "load": round(os.getloadavg()[0], 2)}


def finish(
    name: str, series: Series, key: str, options: argparse.Namespace, *, unit: str, higher_is_better: bool,
    also: Sequence[str] = (),
) -> None:  # fmt: skip
    """Print the medians of `key` and of the keys in `also`; with `--json`, end with the one line for programs.

    Args:
        name: of the benchmark.
        series: what was measured.
        key: the quantity that is compared.
        options: as parsed: `json` ends with a line `{"name", "ours", "peer", "ratio", "runs", "machine"}`, `record`
            keeps it.
        unit: of that quantity, for people.
        higher_is_better: whether more of it is better; the ratio is always "times as good".
        also: further keys worth showing, such as `peak_rss_mb`.
    """
    ours, peer = median(series.ours, key), median(series.peer, key)
    times = ratio(ours, peer, higher_is_better=higher_is_better)
    print(f"{name}: {_text(ours)} {unit}" + ("" if peer is None else f"; peer {_text(peer)} {unit}; {_text(times)}×"))
    for other in also:
        print(f"  {other}: {_text(median(series.ours, other))}; peer {_text(median(series.peer, other))}")
    runs = {"ours": series.ours, "peer": series.peer}
    line = {"name": name, "ours": ours, "peer": peer, "ratio": times, "runs": runs, "machine": machine()}
    if options.json:
        print(json.dumps(line))
    if options.record:
        stamp = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "commit": commit(), "command": command()}
        with RECORD.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**stamp, **line}) + "\n")


def command() -> str:
    """How this benchmark was called, without the paths of this machine."""
    words = [Path(word).name if "/" in word else word for word in sys.argv]
    return " ".join(words)


def commit() -> str | None:
    """The commit that is measured, marked where the tree differs from it."""
    from rethink.store.environment import git_state

    state = git_state(HERE.parent / "rethink")
    return None if state is None else f"{state['commit'][:12]}{'+' if state['changed'] else ''}"


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
