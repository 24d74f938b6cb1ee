"""Supervised fine-tuning, top to bottom: what one step of the loop (`runs/loop.py`) is, one optimizer update.

documents of the step ─► rows without padding ─► loss of the trained tokens ─► gradients ─► update
      every step: metrics row · held-out loss where due · checkpoint where due
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rethink.kinds.sft.data import TrainingData
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.kinds.sft.update import StepStats, accumulate_gradients, lanes_of, micro_batches
from rethink.kinds.sft.wire import LANES
from rethink.model.language_model import LanguageModel
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers
from rethink.runs.checkpoint import TrainState, write_checkpoint
from rethink.runs.optimizer import Optimizer, apply_update
from rethink.runs.rounds import train_lanes
from rethink.store.run_folder import RunFolder


@dataclass(slots=True)
class SFT:
    """The parts of a run, wired together by `run.py`."""

    recipe: SFTRecipe
    folder: RunFolder
    model: LanguageModel
    optimizer: Optimizer
    data: TrainingData
    steps: int
    """Updates in all."""
    progress: Progress
    micro_batch_tokens: int
    export: Callable[[Path], None]
    """Writes the current model as a Hugging Face folder."""
    state: TrainState = field(default_factory=TrainState)
    trackers: Trackers = field(default_factory=lambda: Trackers([], lambda text: None))


def one_step(run: SFT) -> dict[str, float]:
    """One update. Returns the step's metrics."""
    recipe, state = run.recipe, run.state
    run.progress.phase("train")
    started = time.perf_counter()
    documents = run.data.batch(state.step, recipe.batch_sequences)
    lanes = lanes_of(documents, run.optimizer.lanes)
    compute = partial(
        accumulate_gradients, recipe, run.optimizer.trained, None, step=state.step, limit=run.micro_batch_tokens
    )
    stats = StepStats.merged(train_lanes(run.optimizer, lanes, compute, LANES, state.step))
    row = {"time/train": time.perf_counter() - started}
    row |= apply_update(run.optimizer, recipe.optimizer, state.step, run.steps)
    state.step += 1
    state.tokens_total += sum(len(document.token_ids) for document in documents)
    state.tokens_trained += stats.input_tokens
    return {
        "step": state.step,
        "train/epoch": state.step * recipe.batch_sequences / run.data.mixture.epoch,
        **stats.metrics(),
        **row,
    }


def evaluate_now(run: SFT) -> dict[str, float]:
    """Mean loss of the trained tokens of the held-out documents."""
    started, done = time.perf_counter(), 0
    total, tokens = 0.0, 0
    for batch in micro_batches(run.data.held_out, run.micro_batch_tokens, run.model.device):
        run.progress.phase("evaluation", done, len(run.data.held_out))
        logprobs_C, _ = run.model.completion_logprobs(batch)
        total -= float(logprobs_C.double().sum())
        tokens += batch.target_tokens
        done += len(batch.groups)
    row = {"eval/loss": total / tokens, "eval/tokens": tokens, "eval/n": len(run.data.held_out)}
    run.progress.evaluation(run.state.step, row)
    return row | {"time/evaluation": time.perf_counter() - started}


def write(run: SFT, folder: Path) -> None:
    """A recovery checkpoint of this very step."""
    write_checkpoint(folder, run.state, run.optimizer, None, None)
