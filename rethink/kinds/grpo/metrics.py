"""Metrics of a rollout batch; `observe/glossary.py` says what each means."""

from __future__ import annotations

import statistics
from collections import Counter

from rethink.analysis.reflection import reflection_rate
from rethink.analysis.repetition import repetition_penalty
from rethink.analysis.self_correction import count
from rethink.kinds.grpo.collect import RolloutBatch
from rethink.kinds.grpo.recipe import Recipe
from rethink.types import RewardOutcome, Rollout, is_right

REPEATED = 8
"""Tokens of a run that counts as repeated: long enough that sums written alike do not."""


def batch_metrics(batch: RolloutBatch, recipe: Recipe, *, sampled_now: bool) -> dict[str, float]:
    """What the rollouts of a batch say: rewards, lengths, signal, reflection words, speed.

    Seconds count once, in the batch's first step (`sampled_now`), though several steps may share a batch.
    """
    rollouts = batch.rollouts
    rewards = [r.reward for r in rollouts if r.reward is not None]
    lengths = [len(r.completion.token_ids) for r in rollouts]
    corrections = count((r.completion.text, r.problem.answer) for r in rollouts)
    row: dict[str, float] = {
        "rollout/length_mean": statistics.fmean(lengths),
        "rollout/length_max": max(lengths),
        "rollout/truncated": statistics.fmean(r.completion.finish_reason == "length" for r in rollouts),
        "rollout/no_signal": statistics.fmean(batch.no_signal),
        **_rounds(batch, recipe),
        "rollout/reflection": reflection_rate([r.completion.text for r in rollouts]),
        "rollout/reexamining": corrections.marked / len(rollouts),
        "rollout/corrected": corrections.outcomes["corrected"],
        "rollout/repeated": statistics.fmean(
            -repetition_penalty(r.completion.token_ids.tolist(), REPEATED, -1.0) for r in rollouts
        ),
        "rollout/tokens": sum(lengths),
        "time/rollout": batch.rollout_seconds if sampled_now else 0.0,
        "time/reward": batch.reward_seconds if sampled_now else 0.0,
    }
    if sampled_now and batch.rollout_seconds > 0:  # a batch read back after a resume was not generated now
        row["rollout/tokens_per_s"] = sum(lengths) / batch.rollout_seconds
    if rewards:
        row |= {"reward/mean": statistics.fmean(rewards), "reward/std": statistics.pstdev(rewards)}
    return row | _parts(rollouts, [part.name for part in recipe.reward.parts])


def _rounds(batch: RolloutBatch, recipe: Recipe) -> dict[str, float]:
    """Of dynamic sampling."""
    if recipe.rollout.dynamic_sampling is None:
        return {}
    return {"rollout/rounds": batch.rounds, "rollout/groups": len(batch.groups)}


def _parts(rollouts: list[Rollout], names: list[str]) -> dict[str, float]:
    row: dict[str, float] = {}
    outcomes: list[RewardOutcome] = []
    for name in names:
        part = [r.outcomes[name] for r in rollouts]
        outcomes += (o for o in part if o.applied)
        scores = [o.score for o in part if o.score is not None]
        if scores:
            row[f"reward/{name}"] = statistics.fmean(scores)
            if name == "accuracy":
                row["rollout/accuracy"] = statistics.fmean(map(is_right, scores))
            if name == "format":
                row["rollout/format"] = statistics.fmean(scores)
    causes = Counter(o.failure.partition(":")[0].replace(" ", "_") for o in outcomes if o.failure is not None)
    row |= {f"failure/{cause}": count for cause, count in sorted(causes.items())}
    if outcomes:
        row["reward/failed"] = statistics.fmean(o.failure is not None for o in outcomes)
        row["reward/abstained"] = statistics.fmean(o.score is None and o.failure is None for o in outcomes)
    return row
