"""What a run that trains on given documents will cost, by the rules of `plan/estimate.py`.

Documents see only themselves.

Axes: L layers, H query heads, D head size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rethink.plan.estimate import (
    MachineRates,
    Memory,
    Parameters,
    count_parameters,
    largest_update,
    training_memory,
)
from rethink.plan.estimate_text import count_text, flops_text, memory_text, parameters_text, rows_text, seconds_text
from rethink.recipe.base import TrainingRecipe
from rethink.recipe.schema import ModelShape


@dataclass(frozen=True, slots=True)
class Reading:
    """What is trained on, and how often."""

    documents: int
    """Different ones."""
    tokens: float
    """Mean of a document."""
    trained_tokens: float
    """Mean of a document that go through the head; 0: the loss needs no logits."""
    visits: float
    """Documents trained on in the whole run, with repetitions."""
    batch: int
    """Documents a step."""
    steps: int
    sequences: int = 1
    """That a document consists of, which do not see each other."""
    evaluated_tokens: float = 0.0
    """Of all held-out evaluations together."""


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a recipe will cost."""

    parameters: Parameters
    documents: int
    document_tokens: float
    """Mean."""
    trained_tokens: float
    """Mean of a document that go through the head."""
    steps: int
    epochs: float
    step_tokens: float
    step_flops: float
    """Forward and backward, attention included."""
    seconds_per_step: float | None
    """None where no rate was given. Evaluation and checkpoints are not in it."""
    memory: Memory
    total_tokens: float
    total_flops: float
    """Evaluations included."""
    total_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--dry-run --json`."""
        return asdict(self) | {"memory": self.memory.to_dict()}


def estimate_training(
    recipe: TrainingRecipe, shape: ModelShape, reading: Reading, longest: int, rates: MachineRates | None
) -> TrainingEstimate:
    """Tokens, operations, memory and time of a run.

    Args:
        recipe: the run.
        shape: of the model; `estimate.shape_of` makes one from a loaded model's configuration.
        reading: what is trained on.
        longest: tokens of the longest document.
        rates: the machine's; None leaves the times out.
    """
    parameters = count_parameters(shape)
    head = parameters.head * reading.trained_tokens / reading.tokens
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * reading.tokens / reading.sequences / 2
    forward = 2.0 * (parameters.block + head) + attention
    step_tokens, total_tokens = reading.batch * reading.tokens, reading.visits * reading.tokens
    step_flops = 3 * forward * step_tokens
    most = largest_update(recipe, round(step_tokens), longest)
    flops = forward * (3 * total_tokens + reading.evaluated_tokens)
    return TrainingEstimate(
        parameters=parameters,
        documents=reading.documents,
        document_tokens=reading.tokens,
        trained_tokens=reading.trained_tokens,
        steps=reading.steps,
        epochs=reading.visits / reading.documents,
        step_tokens=step_tokens,
        step_flops=step_flops,
        seconds_per_step=None if rates is None else step_flops / rates.training,
        memory=training_memory(
            shape,
            recipe.model.value_bytes,
            longest,
            most,
            logits=reading.trained_tokens > 0,
            lanes=recipe.optimizer.lanes,
        ),
        total_tokens=total_tokens,
        total_flops=flops,
        total_seconds=None if rates is None else flops / rates.training,
    )


def training_text(estimate: TrainingEstimate, documents: str) -> str:
    """A few lines that say what a run will cost. `documents` is the word for them."""
    trained = f", of which {estimate.trained_tokens:,.0f} are trained on" if estimate.trained_tokens else ""
    rows = [
        ("Parameters", parameters_text(estimate.parameters)),
        ("Data", f"{estimate.documents:,} {documents} an epoch, {estimate.document_tokens:,.0f} tokens each{trained}"),
        (
            "Steps",
            f"{estimate.steps:,} ({estimate.epochs:.3g} epochs), {count_text(estimate.step_tokens)} tokens and "
            f"{flops_text(estimate.step_flops)} each{seconds_text(estimate.seconds_per_step, ' a step')}",
        ),
        ("Memory", memory_text(estimate.memory)),
        (
            "Whole run",
            f"{count_text(estimate.total_tokens)} tokens, {flops_text(estimate.total_flops)}"
            f"{seconds_text(estimate.total_seconds)}",
        ),
    ]
    return rows_text(rows, timed=estimate.total_seconds is not None)
