"""From samples to numbers: `results.json` for programs, `details.json` for everything else that is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rethink.eval.benchmark_run import Plan
from rethink.eval.sample_files import Sample
from rethink.eval.statistics.estimates import majority, mean_g_pass_at_k, mean_interval, pass_at_k
from rethink.types import is_right


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What one benchmark says of one model. Shares are fractions of 1."""

    benchmark: str
    mode: str
    pass_1: float
    """Mean score over the problems that can be judged, each the mean over its k samples."""
    interval: tuple[float, float]
    """95 % interval of `pass_1`."""
    cons_k: float | None
    """Share of problems whose majority answer is right; None where answers cannot be compared."""
    n: int
    """Problems that can be judged: their gold can be read."""
    k: int
    truncated: float
    length_mean: float
    """Tokens."""
    tokens_per_s: float
    details: Mapping[str, Any]
    """What `details.json` adds."""
    by_problem: Mapping[str, float]
    """Mean score of each problem, in the order of the data."""

    def row(self) -> dict[str, Any]:
        """As `results.json` has it."""
        return {
            "pass@1": self.pass_1,
            "pass@1_ci": list(self.interval),
            "cons@k": self.cons_k,
            "n": self.n,
            "k": self.k,
            "truncated": self.truncated,
            "length_mean": self.length_mean,
            "tokens_per_s": self.tokens_per_s,
        }


def summarise(plan: Plan, samples: Sequence[Sample], seconds: float, tokens_drawn: int) -> BenchmarkResult:
    """The numbers of a finished benchmark.

    Args:
        plan: what was asked.
        samples: k a problem.
        seconds: of generation, over all sittings.
        tokens_drawn: generated in these seconds.
    """
    groups = _by_problem(samples)
    judged = {name: group for name, group in groups.items() if all(s.score is not None for s in group)}
    means = {name: _mean(s.score for s in group) for name, group in judged.items()}
    values = list(means.values())
    equal = plan.benchmark.grader.equal
    return BenchmarkResult(
        benchmark=plan.benchmark.name,
        mode=plan.mode,
        pass_1=_mean(values),
        interval=mean_interval(values, plan.k),
        cons_k=None if equal is None else _mean(majority_score(group, equal) for group in judged.values()),
        n=len(judged),
        k=plan.k,
        truncated=_mean(s.finish_reason == "length" for s in samples),
        length_mean=_mean(s.tokens for s in samples),
        tokens_per_s=tokens_drawn / seconds if seconds > 0 else 0.0,
        details=_details(plan, groups, judged, samples),
        by_problem=means,
    )


def majority_score(group: Sequence[Sample], equal: Callable[[str, str], bool]) -> float:
    """Score of the answer that most of a problem's samples give; 0 where none gives one."""
    winner = majority([sample.answer for sample in group], equal)
    return 0.0 if winner is None else float(group[winner].score or 0.0)


def _details(
    plan: Plan,
    groups: Mapping[str, Sequence[Sample]],
    judged: Mapping[str, Sequence[Sample]],
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """Everything beyond the fixed columns of `results.json`."""
    right = {name: sum(is_right(s.score) for s in group) for name, group in judged.items()}
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= plan.k]
    mixing = [s.mixing for s in samples if s.mixing is not None]
    benchmark = plan.benchmark
    details: dict[str, Any] = {
        **plan.identity(),
        "metric": benchmark.metric,
        "grader": benchmark.grader.name,
        "data": plan.source,
        "note": benchmark.note,
        "limited_by": plan.limited_by,
        "problems": len(groups),
        "unreadable_golds": len(groups) - len(judged),
        "unparsed": _mean(s.answer is None for s in samples),
        "grader_failures": sum(1 for s in samples if s.failure is not None),
        "language_mixing": _mean(mixing) if mixing else None,
        "length_mean_right": _mean_or_none(s.tokens for s in samples if is_right(s.score)),
        "length_mean_wrong": _mean_or_none(s.tokens for s in samples if s.score is not None and not is_right(s.score)),
        "pass@k": {str(k): _mean(pass_at_k(plan.k, c, k) for c in right.values()) for k in ks},
        "mg-pass@k": _mean(mean_g_pass_at_k(plan.k, c, plan.k) for c in right.values()) if plan.k > 1 else None,
        "groups": _by_group(judged),
    }
    return details | _instruction_shares(samples) | _exact(samples)


def _by_group(judged: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, float]]:
    names = sorted({group[0].group for group in judged.values()} - {""})
    found = {}
    for name in names:
        scores = [_mean(s.score for s in group) for group in judged.values() if group[0].group == name]
        found[name] = {"pass@1": _mean(scores), "n": len(scores)}
    return found


def _instruction_shares(samples: Sequence[Sample]) -> dict[str, float]:
    """IFEval's four numbers: by prompt and by instruction, strict and loose."""
    details = [json.loads(s.detail) for s in samples]
    if not details or "strict" not in details[0]:
        return {}
    return {
        f"{level}_{kind}": _mean(values)
        for kind in ("strict", "loose")
        for level, values in (
            ("prompt", [all(d[kind]) for d in details if kind in d]),
            ("instruction", [one for d in details if kind in d for one in d[kind]]),
        )
    }


def _exact(samples: Sequence[Sample]) -> dict[str, float]:
    details = [json.loads(s.detail) for s in samples]
    if not details or "exact" not in details[0]:
        return {}
    return {"exact_match": _mean(d.get("exact", 0.0) for d in details)}


def _by_problem(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.problem_id, []).append(sample)
    return groups


def _mean(values: Iterable[float | None]) -> float:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _mean_or_none(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
