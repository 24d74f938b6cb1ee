"""What a fine-tuning run will cost, from the recipe, a model's shape and the size of the data.

The rules are those of `plan/estimate.py`: 6 * block parameters * tokens + 6 * head parameters * trained tokens
operations, and three times 4 L H D a query and key in attention; documents see only themselves.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rethink.kinds.sft.recipe import SFTDataSize, SFTRecipe
from rethink.plan.estimate import (
    MachineRates,
    Memory,
    Parameters,
    count_parameters,
    largest_micro_batch,
    training_memory,
)
from rethink.plan.text import count_text, flops_text, memory_text, seconds_text
from rethink.recipe.schema import ModelShape


@dataclass(frozen=True, slots=True)
class SFTEstimate:
    """What a recipe will cost."""

    parameters: Parameters
    documents: int
    """Of an epoch."""
    document_tokens: float
    """Mean."""
    trained_tokens: float
    """Mean of a document."""
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
    total_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--dry-run --json`."""
        return asdict(self) | {"memory": self.memory.to_dict()}


def estimate_sft(
    recipe: SFTRecipe,
    shape: ModelShape,
    size: SFTDataSize,
    rates: MachineRates | None = None,
    *,
    longest: int | None = None,
) -> SFTEstimate:
    """Tokens, operations, memory and time of a run.

    Args:
        recipe: the run.
        shape: of the model; `estimate.shape_of` makes one from a loaded model's configuration.
        size: of the data for training, measured or as the recipe declares it.
        rates: the machine's; None leaves the times out.
        longest: tokens of the longest document; None: `max_tokens`, or the model's context.
    """
    parameters = count_parameters(shape)
    batch = recipe.batch_sequences
    steps = recipe.steps or math.ceil(round((recipe.epochs or 0) * size.documents, 6) / batch)
    matrices = 6.0 * (parameters.block * size.tokens + parameters.head * size.trained_tokens)
    attention = 12.0 * shape.layers * shape.heads * shape.head_dim * size.tokens**2 / 2
    flops = batch * (matrices + attention)
    seconds = None if rates is None else flops / rates.training
    longest = longest or recipe.max_tokens or shape.context
    value_bytes = recipe.model.value_bytes
    limit = recipe.optimizer.micro_batch_tokens or largest_micro_batch(recipe.device)
    most = max(longest, min(round(batch * size.tokens), limit))
    memory = training_memory(shape, value_bytes, longest, most, logits=True)
    return SFTEstimate(
        parameters=parameters,
        documents=size.documents,
        document_tokens=size.tokens,
        trained_tokens=size.trained_tokens,
        steps=steps,
        epochs=steps * batch / size.documents,
        step_tokens=batch * size.tokens,
        step_flops=flops,
        seconds_per_step=seconds,
        memory=memory,
        total_tokens=steps * batch * size.tokens,
        total_flops=steps * flops,
        total_seconds=None if seconds is None else steps * seconds,
    )


def sft_estimate_text(estimate: SFTEstimate) -> str:
    """A few lines that say what a run will cost."""
    parameters = estimate.parameters
    visited = f"{count_text(parameters.block)} in the layers a token visits, {count_text(parameters.head)} in the head"
    rows = [
        ("Parameters", f"{count_text(parameters.total)}: {visited}"),
        (
            "Data",
            f"{estimate.documents:,} documents an epoch, {estimate.document_tokens:,.0f} tokens each, of which "
            f"{estimate.trained_tokens:,.0f} are trained on",
        ),
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
    lines = [f"{label:<18} {text}" for label, text in rows]
    if estimate.total_seconds is None:
        lines.append("No time is given: the machine's rate has not been measured (`rethink doctor` measures it).")
    return "\n".join(lines)
