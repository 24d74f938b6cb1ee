"""Supervised fine-tuning, top to bottom: what one step of the loop (`runs/loop.py`) is, one optimizer update.

    documents of the step ─► rows without padding ─► loss of the trained tokens ─► gradients ─► update
          every step: metrics row · held-out loss where due · checkpoint where due

The loss is the mean negative log-likelihood of the trained tokens (the assistant's), over all of them or document by
document. Documents stand in one row and see only themselves; what several begin with alike stands once.

Axes: C trained tokens of a micro-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from rethink.algorithms.aggregation import token_weights
from rethink.errors import NumericsError
from rethink.kernels.trace import span, traced
from rethink.kinds.sft.data import TrainingData
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.model.text.training_text import Document
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers
from rethink.runs.checkpoint import TrainState, write_checkpoint
from rethink.runs.optimizer import MasterAdamW, learning_rate
from rethink.store.run_folder import RunFolder


@dataclass(slots=True)
class SFT:
    """The parts of a run, wired together by `run.py`."""

    recipe: SFTRecipe
    folder: RunFolder
    model: LanguageModel
    optimizer: MasterAdamW
    data: TrainingData
    steps: int
    """Updates in all."""
    progress: Progress
    micro_batch_tokens: int
    export: Callable[[Path], None]
    """Writes the current model as a Hugging Face folder."""
    state: TrainState = field(default_factory=TrainState)
    trackers: Trackers = field(default_factory=lambda: Trackers([], lambda text: None))


@dataclass(slots=True)
class StepStats:
    """Sums over a step."""

    loss: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    """Trained tokens."""
    input_tokens: int = 0
    """Tokens that went through the model: what documents begin with alike once, last tokens not at all."""

    def metrics(self) -> dict[str, float]:
        """As the metrics file has them."""
        return {
            "train/loss": self.loss,
            "train/entropy": self.entropy / self.tokens,
            "train/tokens": self.tokens,
            "train/input_tokens": self.input_tokens,
        }


def one_step(run: SFT) -> dict[str, float]:
    """One update. Returns the step's metrics."""
    recipe, state = run.recipe, run.state
    run.progress.phase("train")
    started = time.perf_counter()
    documents = run.data.batch(state.step, recipe.batch_sequences)
    stats = accumulate_gradients(run.model, documents, recipe.aggregation, run.micro_batch_tokens, state.step)
    trained = time.perf_counter()
    with span("optimizer"):
        rate = learning_rate(recipe.optimizer, state.step, run.steps)
        norm = run.optimizer.step(rate)
    state.step += 1
    state.tokens_total += sum(len(document.token_ids) for document in documents)
    state.tokens_trained += stats.input_tokens
    return {
        "step": state.step,
        "train/epoch": state.step * recipe.batch_sequences / run.data.mixture.epoch,
        **stats.metrics(),
        "optimizer/learning_rate": rate,
        "optimizer/grad_norm": norm,
        "time/train": trained - started,
        "time/optimizer": time.perf_counter() - trained,
    }


@traced("training")
def accumulate_gradients(
    model: LanguageModel, documents: Sequence[Document], aggregation: str, limit: int, step: int = 0
) -> StepStats:
    """Forward and backward of a step's documents; gradients go where the parameters' hooks put them.

    Args:
        model: what is trained.
        documents: of the step.
        aggregation: `token` or `sequence`: see `algorithms/aggregation.py`.
        limit: most input tokens in one pass (a longer document has a pass of its own); never changes the result.
        step: 0-based number of the update, for errors.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    total_tokens = sum(document.target_tokens for document in documents)
    stats = StepStats()
    for batch in micro_batches(documents, limit, model.device):
        weights_C = token_weights(
            torch.tensor(batch.lengths),
            "sequence" if aggregation == "sequence" else "token",
            total_completions=len(documents),
            total_tokens=total_tokens,
            dtype=torch.promote_types(model.dtype, torch.float32),
        ).to(model.device)

        def objective(logprobs_C: Tensor, part: slice) -> Tensor:
            return -(weights_C[part] * logprobs_C).sum()  # noqa: B023

        with span("forward", batch.input_tokens, batch.target_tokens):
            loss, _, entropies_C = model.completion_loss(batch, objective)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NumericsError(
                f"the loss of step {step + 1} is {value}, so no update was made; the last checkpoint is sound. "
                "Lower optimizer.learning_rate, or use model.dtype=float32, and start anew"
            )
        with span("backward"):
            loss.backward()
        stats.loss += value
        stats.entropy += float(entropies_C.double().sum())
        stats.tokens += batch.target_tokens
        stats.input_tokens += batch.input_tokens
    return stats


def micro_batches(documents: Sequence[Document], limit: int, device: torch.device) -> Iterator[PackedBatch]:
    """Documents, in order, packed into rows of at most `limit` input tokens; a longer one has a row of its own."""
    pending: list[PackedGroup] = []
    room = limit
    for document in documents:
        group = packed_group(document)
        if pending and group.input_tokens > room:
            yield pack(pending, device)
            pending, room = [], limit
        pending.append(group)
        room -= group.input_tokens
    if pending:
        yield pack(pending, device)


def packed_group(document: Document) -> PackedGroup:
    """A document as a prompt (what comes before its first trained token) and the rest, of which some is trained."""
    first = int(document.trained.argmax())
    rest = document.trained[first:]
    return PackedGroup(
        document.token_ids[:first].tolist(),
        [document.token_ids[first:].tolist()],
        None if rest.all() else [rest.tolist()],
    )


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
