"""What a run that trains a reward model will cost, from the recipe, a model's shape and the size of the data.

The rules are those of `plan/estimate.py`: 6 * block parameters * tokens operations and attention, but no projection to
the vocabulary. Held-out examples are read once an evaluation, at 2 * block parameters a token.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rethink.kinds.reward_model.recipe import RewardDataSize, RewardModelRecipe
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
class RewardModelEstimate:
    """What a recipe will cost."""

    parameters: Parameters
    examples: int
    example_tokens: float
    """Mean, of both responses where it is a pair."""
    steps: int
    memory: Memory
    total_tokens: float
    """Trained on."""
    total_flops: float
    """Evaluations included."""
    total_seconds: float | None
    """None where no rate was given."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--dry-run --json`."""
        return asdict(self) | {"memory": self.memory.to_dict()}


def estimate_reward_model(
    recipe: RewardModelRecipe,
    shape: ModelShape,
    size: RewardDataSize,
    rates: MachineRates | None = None,
    *,
    longest: int | None = None,
    held_out_tokens: int = 0,
) -> RewardModelEstimate:
    """Tokens, operations, memory and time of a run.

    Args:
        recipe: the run.
        shape: of the model.
        size: of the data to train on, measured or as the recipe declares it.
        rates: the machine's; None leaves the time out.
        longest: tokens of the longest example, all its responses; None: two (for labels, one) of `max_tokens`, or of
            the model's context.
        held_out_tokens: of one evaluation.
    """
    parameters = count_parameters(shape)
    responses = 2 if recipe.objective == "pairwise" else 1
    tokens = recipe.visits(size.examples) * size.tokens
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * size.tokens / responses / 2
    evaluations = 2 + (recipe.total_steps(size.examples) // recipe.evaluation.every if recipe.evaluation.every else 0)
    flops = (2.0 * parameters.block + attention) * (3 * tokens + evaluations * held_out_tokens)
    longest = longest or responses * (recipe.max_tokens or shape.context)
    limit = recipe.optimizer.micro_batch_tokens or largest_micro_batch(recipe.device)
    most = max(longest, min(round(recipe.batch_size * size.tokens), limit))
    return RewardModelEstimate(
        parameters=parameters,
        examples=size.examples,
        example_tokens=size.tokens,
        steps=recipe.total_steps(size.examples),
        memory=training_memory(shape, recipe.model.value_bytes, longest, most, logits=False),
        total_tokens=tokens,
        total_flops=flops,
        total_seconds=None if rates is None else flops / rates.training,
    )


def reward_model_estimate_text(estimate: RewardModelEstimate) -> str:
    """A few lines that say what a run will cost."""
    rows = [
        ("Parameters", f"{count_text(estimate.parameters.total)}"),
        ("Data", f"{estimate.examples:,} examples to train on, {estimate.example_tokens:,.0f} tokens each"),
        ("Memory", memory_text(estimate.memory)),
        (
            "Whole run",
            f"{estimate.steps:,} steps, {count_text(estimate.total_tokens)} tokens, {flops_text(estimate.total_flops)}"
            f"{seconds_text(estimate.total_seconds)}",
        ),
    ]
    return "\n".join(f"{label:<18} {text}" for label, text in rows)
