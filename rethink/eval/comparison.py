"""Where two evaluations differ: benchmark by benchmark with interval and p, then problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError, UsageError
from rethink.eval.evaluate import RECORD, read_record
from rethink.eval.sample_files import Sample, SampleStore
from rethink.eval.statistics.estimates import PairedComparison, paired_comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """A problem on which the two have different scores."""

    problem_id: str
    question: str
    gold: str | None
    first: float
    """Mean score of the first."""
    second: float
    first_answer: str | None
    """Of its first sample."""
    second_answer: str | None


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """One benchmark that both evaluated."""

    benchmark: str
    paired: PairedComparison
    only_first: int
    """Problems that only the first evaluated; they are left out."""
    only_second: int
    differences: tuple[Difference, ...]
    """Largest first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations."""

    first: str
    """Its model."""
    second: str
    benchmarks: tuple[BenchmarkComparison, ...]


def compare_folders(first: Path, second: Path) -> Comparison:
    """Compare two folders that `rethink eval` wrote.

    Raises:
        RunFolderError: a folder holds no evaluation, or a damaged one.
        UsageError: they have no benchmark in common, or other problems under the same names.
    """
    records = [_record(first), _record(second)]
    names = [name for name in records[0]["benchmarks"] if name in records[1]["benchmarks"]]
    if not names:
        raise UsageError(
            f"`{first}` evaluated {', '.join(records[0]['benchmarks']) or 'nothing'} and `{second}` "
            f"{', '.join(records[1]['benchmarks']) or 'nothing'}: they have no benchmark in common"
        )
    return Comparison(
        str(records[0]["backend"]["model"]),
        str(records[1]["backend"]["model"]),
        tuple(_compare(name, *map(_samples, (first, second), records, (name, name))) for name in names),
    )


def _samples(folder: Path, record: Mapping[str, Any], name: str) -> list[Sample]:
    """The samples of a benchmark, all that its results were computed from."""
    samples, kept = SampleStore(folder / "samples" / name).read(), record.get("kept", {}).get(name, 0)
    if len(samples) < kept:
        raise RunFolderError(
            f"`{folder / 'samples' / name}` holds {len(samples)} samples, and its results were computed from {kept}: a "
            "file is missing. Restore it, or run the same `rethink eval` again, which samples the missing ones"
        )
    return samples


def _compare(name: str, first: Sequence[Sample], second: Sequence[Sample]) -> BenchmarkComparison:
    a, b = _by_problem(first), _by_problem(second)
    common = [problem for problem in a if problem in b]
    if not common:
        raise UsageError(
            f"the two evaluations of {name} have no judged problem in common; evaluate the same data with both"
        )
    for problem in common:
        if (a[problem][0].question, a[problem][0].gold) != (b[problem][0].question, b[problem][0].gold):
            raise UsageError(
                f"problem {problem} of {name} is not the same in the two evaluations, so they were made from other "
                "data; evaluate both on the same file or revision"
            )
    means_a, means_b = [_mean(a[p]) for p in common], [_mean(b[p]) for p in common]
    differences = [
        Difference(p, a[p][0].question, a[p][0].gold, x, y, a[p][0].answer, b[p][0].answer)
        for p, x, y in zip(common, means_a, means_b, strict=True)
        if x != y
    ]
    differences.sort(key=lambda difference: -abs(difference.second - difference.first))
    return BenchmarkComparison(
        name,
        paired_comparison(means_a, means_b),
        len(a) - len(common),
        len(b) - len(common),
        tuple(differences),
    )


def _by_problem(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Samples of each problem whose gold can be read, in their order; each sample once."""
    seen: dict[str, dict[int, Sample]] = {}
    for sample in samples:
        if sample.score is not None:
            seen.setdefault(sample.problem_id, {}).setdefault(sample.sample, sample)
    return {problem: [of[i] for i in sorted(of)] for problem, of in seen.items()}


def _mean(samples: Sequence[Sample]) -> float:
    return sum(sample.score or 0.0 for sample in samples) / len(samples)


def _record(folder: Path) -> dict[str, Any]:
    if not (folder / RECORD).is_file():
        below = sorted(str(path.parent) for path in folder.glob(f"*/{RECORD}")) if folder.is_dir() else []
        hint = f"; it holds evaluations below it: {', '.join(below)}" if below else ""
        raise RunFolderError(
            f"`{folder}` holds no evaluation (no {RECORD}){hint}. Give the folder that `rethink eval --out` wrote"
        )
    return read_record(folder)
