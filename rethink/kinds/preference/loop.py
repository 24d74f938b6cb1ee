"""Training on preferences, top to bottom: what one step of the loop (`runs/loop.py`) is, one optimizer update.

examples of the step ─► for KTO: the KL ─► log-probabilities of their answers ─► loss ─► gradients ─► update
    every step: metrics row · held-out evaluation where due · checkpoint where due
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rethink.errors import NumericsError
from rethink.eval.statistics.estimates import wilson_interval
from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.kinds.preference.update import (
    Lane,
    StepStats,
    Values,
    accumulate_gradients,
    answer_logprobs,
    estimate_kl,
    record,
    reference_of,
    terms_of,
)
from rethink.kinds.preference.wire import LANES
from rethink.kinds.reward_model.examples import Example, step_places
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers
from rethink.runs.checkpoint import TrainState, write_checkpoint
from rethink.runs.optimizer import Optimizer, apply_update
from rethink.runs.rounds import train_lanes
from rethink.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Side:
    """The examples that are trained on, or those that are held out, with what is known of them before any step."""

    examples: Sequence[Example]
    kl_groups: Sequence[PackedGroup] = ()
    """See `PreferenceData.train_kl`."""
    reference: Sequence[Values] | None = None
    """[answers] log-probabilities of each example under the reference model; None: not stored, or not needed."""
    kl_reference: Sequence[Values] | None = None
    """[1] the same of `kl_groups`."""

    def lane(self, places: Sequence[int], kl: float) -> Lane:
        """The examples at these places, as a step has them."""
        examples = [self.examples[place] for place in places]
        labels = [example.preference.label == 1 for example in examples]
        return Lane(
            [example.group for example in examples],
            len(examples),
            None if self.reference is None else [self.reference[place] for place in places],
            None if examples[0].preference.label is None else labels,
            kl,
        )


@dataclass(slots=True)
class PreferenceRun:
    """The parts of a run, wired together by `run.py`."""

    recipe: PreferenceRecipe
    folder: RunFolder
    model: LanguageModel
    reference: LanguageModel | None
    """Where it is kept in memory (`algorithm.reference=model`)."""
    optimizer: Optimizer
    train: Side
    held_out: Side
    facts: dict[str, Any]
    """Of the data, for the summary."""
    steps: int
    progress: Progress
    micro_batch_tokens: int
    export: Callable[[Path], None]
    """Writes the current model as a Hugging Face folder."""
    state: TrainState = field(default_factory=TrainState)
    trackers: Trackers = field(default_factory=lambda: Trackers([], lambda text: None))


def one_step(run: PreferenceRun) -> dict[str, float]:
    """One update. Returns the step's metrics."""
    run.progress.phase("train")
    started = time.perf_counter()
    recipe, step = run.recipe, run.state.step
    places = step_places(recipe, len(run.train.examples), step, "preferences")
    kl = kl_of(run, run.train, places)
    lanes = run.train.lane(places, kl or 0.0).lanes(run.optimizer.lanes)
    compute = partial(
        accumulate_gradients, recipe, run.optimizer.trained, run.reference, step=step, limit=run.micro_batch_tokens
    )
    stats = StepStats.merged(train_lanes(run.optimizer, lanes, compute, LANES, step))
    row = {"time/train": time.perf_counter() - started}
    row |= apply_update(run.optimizer, recipe.optimizer, step, run.steps)
    run.state.step += 1
    run.state.tokens_trained += round(stats.sums["input tokens"])
    row |= {} if kl is None else {"preference/kl": kl}
    return {"step": run.state.step, **stats.metrics(), "tokens/trained": run.state.tokens_trained, **row}


def kl_of(run: PreferenceRun, side: Side, places: Sequence[int]) -> float | None:
    """The KL that the objective compares with, of the examples at these places; None where it needs none."""
    if "kl" not in run.recipe.algorithm.objective.needs:
        return None
    if not side.kl_groups:
        return 0.0
    groups = [side.kl_groups[place] for place in places]
    mine = answer_logprobs(run.model, groups, run.micro_batch_tokens)
    if run.reference is not None:
        theirs = answer_logprobs(run.reference, groups, run.micro_batch_tokens)
    else:
        assert side.kl_reference is not None
        theirs = [side.kl_reference[place] for place in places]
    return estimate_kl(mine, theirs)


def evaluate_now(run: PreferenceRun) -> dict[str, float]:
    """Held-out evaluation; keeps every example with its implicit rewards. Returns the metrics."""
    started = time.perf_counter()
    run.progress.phase("evaluation")
    places = range(len(run.held_out.examples))
    lane = run.held_out.lane(places, kl_of(run, run.held_out, places) or 0.0)
    stats, rows = StepStats(), []
    examples = iter(run.held_out.examples)
    for part in lane.micro_batches(run.micro_batch_tokens):
        batch = pack(part.groups, run.model.device)
        logprobs_C, _ = run.model.completion_logprobs(batch)
        terms = terms_of(run.recipe.algorithm, part, batch, logprobs_C, reference_of(part, batch, run.reference))
        record(stats, part, batch, terms, logprobs_C)
        rewards, width = terms.rewards_A.tolist(), len(terms.rewards_A) // len(part.groups)
        for number, margin in enumerate(terms.margins_B.tolist()):
            of_it = rewards[number * width : (number + 1) * width]
            rows.append(sample_row(next(examples), of_it, margin))
    _refuse_unfit(rows)
    run.folder.write_samples(f"step-{run.state.step:06d}", rows)
    right = round(stats.sums["right"])
    low, high = wilson_interval(right, len(rows))
    row = {
        "eval/accuracy": right / len(rows),
        "eval/accuracy_low": low,
        "eval/accuracy_high": high,
        "eval/n": len(rows),
        "eval/preference_loss": stats.sums["loss"] / len(rows),
        "eval/margin": stats.sums["margin"] / len(rows),
        "eval/margin_median": statistics.median(entry["margin"] for entry in rows),
    }
    run.progress.evaluation(run.state.step, row)
    return row | {"time/evaluation": time.perf_counter() - started}


def sample_row(example: Example, rewards: Sequence[float], margin: float) -> dict[str, Any]:
    """A held-out example as the run's folder keeps it."""
    preference = example.preference
    return {
        "prompt": "\n\n".join(f"{message['role']}: {message['content']}" for message in preference.prompt),
        "chosen": preference.responses[0],
        "rejected": preference.responses[1] if len(preference.responses) == 2 else None,
        "label": preference.label,
        "rewards": list(rewards),
        "margin": margin,
        "right": margin > 0,
        "rule": preference.rule,
        "where": preference.where,
    }


def _refuse_unfit(rows: Sequence[dict[str, Any]]) -> None:
    if unfit := sum(not math.isfinite(row["margin"]) for row in rows):
        raise NumericsError(
            f"the rewards of {unfit} of {len(rows)} held-out examples are not finite, so nothing can be said of them. "
            "Start anew with a lower optimizer.learning_rate, or with model.dtype=float32"
        )


def write(run: PreferenceRun, folder: Path) -> None:
    """A recovery checkpoint of this very step."""
    write_checkpoint(folder, run.state, run.optimizer, None, None)
