"""Training a reward model, top to bottom: what one step of the loop (`runs/loop.py`) is, one optimizer update.

examples of the step ─► scores of their responses ─► loss ─► gradients ─► update
    every step: metrics row · held-out evaluation where due · checkpoint where due
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rethink.errors import NumericsError
from rethink.eval.statistics.calibration import expected_calibration_error, reliability
from rethink.eval.statistics.estimates import wilson_interval
from rethink.kinds.reward_model.data import step_examples
from rethink.kinds.reward_model.examples import Example, Examples
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.kinds.reward_model.update import (
    Judged,
    StepStats,
    accumulate_gradients,
    judged_by,
    lanes_of,
    micro_batches,
)
from rethink.kinds.reward_model.wire import LANES
from rethink.model.heads.value_head import RewardModel
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers
from rethink.runs.checkpoint import TrainState, write_checkpoint
from rethink.runs.optimizer import Optimizer, apply_update
from rethink.runs.rounds import train_lanes
from rethink.store.run_folder import RunFolder


@dataclass(slots=True)
class RewardRun:
    """The parts of a run, wired together by `run.py`."""

    recipe: RewardModelRecipe
    folder: RunFolder
    model: RewardModel
    optimizer: Optimizer
    data: Examples
    steps: int
    progress: Progress
    micro_batch_tokens: int
    state: TrainState = field(default_factory=TrainState)
    trackers: Trackers = field(default_factory=lambda: Trackers([], lambda text: None))


def score_examples(model: RewardModel, examples: Sequence[Example], limit: int) -> list[Judged]:
    """The examples with their scores, without a graph."""
    judged: list[Judged] = []
    with torch.no_grad():
        for part in micro_batches(examples, limit):
            judged += judged_by(model.scores([example.group for example in part]), part)
    return judged


def held_out_facts(judged: Sequence[Judged]) -> dict[str, Any]:
    """Accuracy with its interval (Wilson, 95 %), loss, margin, calibration: plain values for the summary.

    Calibration is of the probability that the model gives: for pairs, to the response that it puts ahead (0.5 to 1);
    for labels, to the label 1.

    Raises:
        NumericsError: a score is not finite.
    """
    margins = [entry.margin for entry in judged]
    if unfit := sum(not math.isfinite(margin) for margin in margins):
        raise NumericsError(
            f"the scores of {unfit} of {len(judged)} held-out examples are not finite, so nothing can be said of them. "
            "Start anew with a lower optimizer.learning_rate, or with model.dtype=float32"
        )
    pairs = judged[0].example.preference.label is None
    right = [entry.right for entry in judged]
    low, high = wilson_interval(sum(right), len(right))
    if pairs:
        table = reliability([_sigmoid(abs(entry.margin)) for entry in judged], right, low=0.5)
    else:
        labels = [bool(entry.example.preference.label) for entry in judged]
        table = reliability([_sigmoid(entry.scores[0]) for entry in judged], labels)
    scores = [score for entry in judged for score in entry.scores]
    return {
        "accuracy": sum(right) / len(right),
        "accuracy_ci": [low, high],
        "loss": sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins) / len(margins),
        "ece": expected_calibration_error(table),
        "reliability": [asdict(entry) for entry in table],
        "margin_mean": sum(margins) / len(margins),
        "margin_median": statistics.median(margins),
        "score_mean": sum(scores) / len(scores),
        "n": len(judged),
    }


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def one_step(run: RewardRun) -> dict[str, float]:
    """One update. Returns the step's metrics."""
    run.progress.phase("train")
    started = time.perf_counter()
    recipe, step = run.recipe, run.state.step
    examples = step_examples(recipe, run.data, step)
    lanes = lanes_of(examples, run.optimizer.lanes)
    compute = partial(
        accumulate_gradients, recipe, run.optimizer.trained, None, step=step, limit=run.micro_batch_tokens
    )
    stats = StepStats.merged(train_lanes(run.optimizer, lanes, compute, LANES, step))
    row = {"time/train": time.perf_counter() - started}
    row |= apply_update(run.optimizer, recipe.optimizer, step, run.steps)
    run.state.step += 1
    run.state.tokens_trained += sum(example.tokens for example in examples)
    return {
        "step": run.state.step,
        "reward_model/loss": stats.loss,
        "reward_model/accuracy": sum(margin > 0 for margin in stats.margins) / len(examples),
        "reward_model/margin": sum(stats.margins) / len(examples),
        "tokens/trained": run.state.tokens_trained,
        **row,
    }


def evaluate_now(run: RewardRun) -> dict[str, float]:
    """Held-out evaluation; keeps every example with its scores. Returns the metrics."""
    started = time.perf_counter()
    run.progress.phase("evaluation")
    judged = score_examples(run.model, run.data.held_out, run.micro_batch_tokens)
    facts = held_out_facts(judged)
    run.folder.write_samples(f"step-{run.state.step:06d}", [_sample_row(entry) for entry in judged])
    row = {
        "eval/accuracy": facts["accuracy"],
        "eval/accuracy_low": facts["accuracy_ci"][0],
        "eval/accuracy_high": facts["accuracy_ci"][1],
        "eval/n": facts["n"],
        "eval/reward_model_loss": facts["loss"],
        "eval/margin": facts["margin_mean"],
        "eval/margin_median": facts["margin_median"],
        "eval/ece": facts["ece"],
    }
    run.progress.evaluation(run.state.step, row)
    return row | {"time/evaluation": time.perf_counter() - started}


def _sample_row(entry: Judged) -> dict[str, Any]:
    preference = entry.example.preference
    return {
        "prompt": "\n\n".join(f"{message['role']}: {message['content']}" for message in preference.prompt),
        "chosen": preference.responses[0],
        "rejected": preference.responses[1] if len(preference.responses) == 2 else None,
        "label": preference.label,
        "scores": list(entry.scores),
        "right": entry.right,
        "rule": preference.rule,
        "where": preference.where,
    }


def write(run: RewardRun, folder: Path) -> None:
    """A recovery checkpoint of this very step."""
    write_checkpoint(folder, run.state, run.optimizer, None, None)
