"""What a curation came to: counts by domain as in the paper's table of its 800k mix, reasons, readability."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rethink.analysis.language import language_of
from rethink.analysis.readability import readability
from rethink.kinds.samples.choose import by_problem
from rethink.kinds.samples.records import GENERAL, Sample

MEASURED = 2000
"""Samples whose readability is measured, spread evenly."""
GOOD = ("kept", "not-chosen", "over-balance")
"""Reasons of samples that passed every filter."""


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Plain values of `statistics.json`.

    `domains`: by task, and `total`: samples drawn, kept, mean rounds (turns of the assistant) and tokens (of the last
    turn) of the kept ones. `reasons`: samples by reason, in all and by domain. `problems`: different ones, and how many
    of them have a sample that passed every filter. `readability`: mean score of all reasoning samples and of the kept.
    """
    tasks = [task for task in dict.fromkeys(sample.task for sample in samples) if task != GENERAL]
    tasks += [GENERAL] if any(sample.task == GENERAL for sample in samples) else []
    reasoning = [sample for sample in samples if sample.task != GENERAL]
    groups = by_problem(reasoning)
    return {
        "domains": [_domain(task, [sample for sample in samples if sample.task == task]) for task in tasks],
        "total": _domain("total", samples),
        "reasons": dict(Counter(sample.reason for sample in samples).most_common()),
        "problems": {
            "drawn": len(groups),
            "solved": sum(any(sample.reason in GOOD for sample in group) for group in groups),
        },
        "rewritten": sum(sample.original is not None for sample in reasoning),
        "readability": {
            "all": mean_readability(reasoning),
            "kept": mean_readability([sample for sample in reasoning if sample.kept]),
        },
    }


def _domain(name: str, samples: Sequence[Sample]) -> dict[str, Any]:
    kept = [sample for sample in samples if sample.kept]
    return {
        "domain": name,
        "samples": len(samples),
        "kept": len(kept),
        "rounds": statistics.fmean(sample.rounds for sample in kept) if kept else None,
        "tokens": statistics.fmean(sample.tokens for sample in kept) if kept else None,
        "reasons": dict(Counter(sample.reason for sample in samples).most_common()),
    }


def mean_readability(samples: Sequence[Sample]) -> float | None:
    """Mean readability of at most `MEASURED` of the samples, spread evenly; None of none."""
    step = max(1, -(-len(samples) // MEASURED))
    scores = [readability(s.completion, language_of(s.problem())).score for s in samples[::step]]
    return statistics.fmean(scores) if scores else None


def as_markdown(found: Mapping[str, Any]) -> str:
    """The tables: the mix by domain, and what was dropped for what reason."""
    lines = ["| domain | samples | average rounds | average tokens | drawn |", "|---|---:|---:|---:|---:|"]
    for row in [*found["domains"], found["total"]]:
        rounds, tokens = ("–" if row[key] is None else f"{row[key]:,.1f}" for key in ("rounds", "tokens"))
        name = "**total**" if row is found["total"] else _cell(row["domain"])
        lines.append(f"| {name} | {row['kept']:,} | {rounds} | {tokens} | {row['samples']:,} |")
    lines += ["", "| reason | samples |", "|---|---:|"]
    lines += [f"| {_cell(reason)} | {count:,} |" for reason, count in found["reasons"].items()]
    problems, legible = found["problems"], found["readability"]
    lines += ["", f"{problems['solved']:,} of {problems['drawn']:,} problems have a sample that passed every filter."]
    if legible["all"] is not None and legible["kept"] is not None:
        lines.append(f"Mean readability {legible['all']:.3f}, of the kept samples {legible['kept']:.3f}.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
