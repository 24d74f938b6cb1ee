"""Which charts a report has: what each shows, from which metrics, in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rethink.observe.report.charts import Chart, Line, Point, Values
from rethink.observe.report.facts import words_that_occur
from rethink.recipe.kind import DEFAULT_KIND, kinds

MOST_WORDS = 6
"""Words of reflection with a colour of their own; the rest are counted together."""
_NOT_PARTS = {"mean", "std", "failed", "abstained"}
_PART_COLOURS = (1, 3, 4, 5, 6, 7, 8)
"""Not 2: that is the colour of held-out points."""


@dataclass(frozen=True)
class Panel:
    """A chart, the metrics that explain it, and a note of its own."""

    chart: Chart
    metrics: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class ChartPlan:
    """A chart of plain lines: (metric, label) pairs; a label that ends in `*` is a faint side line."""

    title: str
    lines: tuple[tuple[str, str], ...]
    kind: str = "number"
    unit: str = ""
    smooth: bool = True
    from_zero: bool = False
    held_out: str = ""
    """Evaluation metric that is drawn as points."""
    stacked: bool = False


_PLANS = (
    ChartPlan("Accuracy", (("rollout/accuracy", "training rollouts"),), "share", from_zero=True, held_out="accuracy"),
    ChartPlan("Format", (("rollout/format", "training rollouts"),), "share", from_zero=True, held_out="format"),
    ChartPlan("Completion length", (("rollout/length_mean", "mean"), ("rollout/length_max", "longest*")), unit="tokens",
          from_zero=True, held_out="length_mean"),
    ChartPlan("Truncation and repetition",
          (("rollout/truncated", "truncated"), ("rollout/repeated", "repeated text")), "share", from_zero=True),
    ChartPlan("Groups without signal", (("rollout/no_signal", "share of groups"),), "share", from_zero=True),
    ChartPlan("Dynamic sampling", (("rollout/groups", "groups"), ("rollout/rounds", "rounds*")), from_zero=True),
    ChartPlan("Problems by pass rate", (("problems/below", "below the bounds"), ("problems/within", "within"),
                             ("problems/above", "above")), smooth=False, from_zero=True),
    ChartPlan("KL from the reference", (("policy/kl", "KL"),), unit="nats per token"),
    ChartPlan("Entropy", (("policy/entropy", "entropy"),), unit="nats per token", from_zero=True),
    ChartPlan("Clip fraction", (("policy/clip_low", "lower bound"), ("policy/clip_high", "upper bound")), "share",
          from_zero=True),
    ChartPlan("Engine and trainer mismatch", (("policy/mismatch", "mean"), ("policy/mismatch_max", "largest*")),
          unit="nats", from_zero=True),
    ChartPlan("Critic: what its values explain", (("critic/explained_variance", "share of the returns' variance"),)),
    ChartPlan("Critic: values and returns", (("critic/value", "mean value"), ("critic/return", "mean return")),
          unit="reward"),
    ChartPlan("Critic: loss", (("critic/loss", "loss"),), from_zero=True),
    ChartPlan("Critic: values that the clip holds", (("critic/clipped", "share of tokens"),), "share", from_zero=True),
    ChartPlan("Critic: gradient norm", (("critic/grad_norm", "largest, before clipping"),), from_zero=True),
    ChartPlan("Trust region: KL of the step", (("trust_region/kl", "measured"),), unit="nats per token",
              from_zero=True),
    ChartPlan("Trust region: gain of the step", (("trust_region/gain", "fall of the loss"),), from_zero=True),
    ChartPlan("Trust region: what was done", (("trust_region/share", "share of the longest step"),
                                              ("trust_region/residual", "residual of conjugate gradients")),
          from_zero=True),
    ChartPlan("Gradient norm", (("optimizer/grad_norm", "before clipping"),), from_zero=True),
    ChartPlan("Loss", (("policy/loss", "loss"),)),
    ChartPlan("Learning rate", (("optimizer/learning_rate", "learning rate"),), smooth=False, from_zero=True),
    ChartPlan("Time per phase", (("time/rollout", "rollout"), ("time/reward", "reward"), ("time/critic", "critic"),
                             ("time/train", "train"), ("time/optimizer", "optimizer"),
                             ("time/evaluation", "evaluation"), ("time/checkpoint", "checkpoint")),
          unit="seconds", stacked=True),
    ChartPlan("Generation speed", (("rollout/tokens_per_s", "tokens per second"),), unit="tokens/s", from_zero=True),
    ChartPlan("Memory", (("memory/peak_rss_mb", "peak of the process"),), unit="MB", smooth=False, from_zero=True),
)  # fmt: skip


def panels(data: Mapping[str, Any]) -> list[Panel]:
    """Every chart of a report, also those without values; `data` is what `report_data` gives."""
    rows: list[Mapping[str, Any]] = data["metrics"]
    kind = kinds().get(data["recipe"].get("kind", DEFAULT_KIND))
    plans = (*(kind.load("charts") if kind and kind.charts else ()), *_PLANS)
    return [_reward(rows), _reward_parts(rows), *(_plain(plan, rows, data["evaluations"]) for plan in plans)]


def reflection_panels(data: Mapping[str, Any], counts: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """The rate of reflection words over all rollouts, and which words the sampled batches hold.

    Args:
        counts: what `word_counts` gives, with the `step` of each batch added.
    """
    rate = _plain(
        ChartPlan(
            "Words of reflection", (("rollout/reflection", "all rollouts"),), unit="per 1,000 words", from_zero=True
        ),
        data["metrics"],
        [],
    )
    share = _plain(
        ChartPlan("Rollouts with words of reflection", (("rollout/reexamining", "all rollouts"),), kind="share"),
        data["metrics"],
        [],
    )
    chosen = words_that_occur(counts)
    shown, rest = chosen[:MOST_WORDS], chosen[MOST_WORDS:]
    groups = [(f"“{word}”", [word]) for word in shown] + ([("other words", rest)] if rest else [])
    lines = [
        Line(label, [_per_thousand(entry, words) for entry in counts], colour)
        for colour, (label, words) in enumerate(groups, start=1)
    ]
    chart = Chart(
        "Which words", [float(entry["step"]) for entry in counts], lines, unit="per 1,000 words", stacked=True
    )
    note = "Counted in the rollouts of this page, a sample of the run."
    return [rate, share, Panel(chart, (), note)]


def finite(value: Any) -> float | None:
    """The value where it is a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> Values:
    """One metric of each row."""
    return [finite(row.get(name)) for row in rows]


def _per_thousand(entry: Mapping[str, Any], words: Sequence[str]) -> float | None:
    found = sum(entry["counts"].get(word, 0) for word in words)
    return 1000 * found / entry["words"] if entry["words"] else None


def _plain(plan: ChartPlan, rows: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Panel:
    lines = [
        Line(label.rstrip("*"), column(rows, name), colour, faint=label.endswith("*"))
        for (name, label), colour in zip(plan.lines, (1, 2, 3, 4, 5, 6, 7) if plan.stacked else (1, 3, 4), strict=False)
    ]
    lines = [line for line in lines if any(value is not None for value in line.values)]
    chart = Chart(
        plan.title, [float(row["step"]) for row in rows], lines, kind=plan.kind, unit=plan.unit, smooth=plan.smooth,
        from_zero=plan.from_zero, stacked=plan.stacked,
    )  # fmt: skip
    names = tuple(name for name, _ in plan.lines)
    if plan.held_out:
        points = _points(plan.held_out, evaluations)
        label = "held-out problems" + (" (95 % interval)" if any(point.low is not None for point in points) else "")
        chart, names = replace(chart, points=points, points_label=label), (*names, f"eval/{plan.held_out}")
    return Panel(_without_gaps(chart), names)


def _reward(rows: Sequence[Mapping[str, Any]]) -> Panel:
    mean, deviation = column(rows, "reward/mean"), column(rows, "reward/std")
    low: Values = [None if m is None or d is None else m - d for m, d in zip(mean, deviation, strict=True)]
    high: Values = [None if m is None or d is None else m + d for m, d in zip(mean, deviation, strict=True)]
    lines = [Line("mean", mean)] if any(value is not None for value in mean) else []
    band = (low, high) if lines and any(value is not None for value in low) else None
    chart = Chart(
        "Reward", [float(row["step"]) for row in rows], lines, band=band, band_label="± 1 standard deviation",
        smooth=True,
    )  # fmt: skip
    return Panel(_without_gaps(chart), ("reward/mean", "reward/std"))


def _reward_parts(rows: Sequence[Mapping[str, Any]]) -> Panel:
    names = list(dict.fromkeys(name for row in rows for name in row if name.startswith("reward/")))
    parts = [name for name in names if name.removeprefix("reward/") not in _NOT_PARTS]
    lines = [
        Line(name.removeprefix("reward/"), column(rows, name), _PART_COLOURS[index % len(_PART_COLOURS)])
        for index, name in enumerate(parts)
    ]
    for name, label in (("reward/failed", "share failed"), ("reward/abstained", "share abstained")):
        values = column(rows, name)
        if any(values):  # all 0 is the rule and would only crowd the chart
            lines.append(Line(label, values, 8 if name.endswith("failed") else 7, faint=True))
    chart = Chart("Reward parts", [float(row["step"]) for row in rows], lines, smooth=True)
    return Panel(_without_gaps(chart), (*parts, "reward/failed", "reward/abstained"))


def _points(name: str, evaluations: Sequence[Mapping[str, Any]]) -> list[Point]:
    return [
        Point(float(row["step"]), value, finite(row.get(f"{name}_low")), finite(row.get(f"{name}_high")))
        for row in evaluations
        if (value := finite(row.get(name))) is not None
    ]


def _without_gaps(chart: Chart) -> Chart:
    """The chart without steps at which none of its lines has a value, e.g. the evaluation before training."""
    keep = [index for index in range(len(chart.steps)) if any(line.values[index] is not None for line in chart.lines)]
    if len(keep) == len(chart.steps):
        return chart

    def pick(values: Values) -> Values:
        return [values[index] for index in keep]

    return replace(
        chart,
        steps=[chart.steps[index] for index in keep],
        lines=[replace(line, values=pick(line.values)) for line in chart.lines],
        band=(pick(chart.band[0]), pick(chart.band[1])) if chart.band else None,
    )
