"""What a stage of a pipeline takes, before it runs: the same few numbers for every kind."""

from __future__ import annotations

from dataclasses import dataclass

from rethink.plan.estimate import ASSUMED_PROMPT_TOKENS, MachineRates, Memory, count_parameters
from rethink.recipe.schema import ModelShape

SAMPLE_BYTES = 8
"""Bytes on disk of a token that a stage samples: its text and what is known of it."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Upper bounds. None: not known before."""

    tokens: float | None = None
    """Generated and trained on."""
    flops: float | None = None
    seconds: float | None = None
    memory: Memory | None = None
    """Of a stage that trains."""
    longest: int | None = None
    """Tokens of the longest sequence that is trained on; None: the model's context."""
    disk_bytes: int = 0
    """Of samples and rollouts; models and checkpoints come on top."""


def sampling_costs(shape: ModelShape, prompts: int, completions: int, rates: MachineRates | None) -> Costs:
    """Of a stage that generates and trains nothing.

    Args:
        shape: of the model.
        prompts: how many are read.
        completions: most tokens that are generated in all.
        rates: the machine's; None leaves the time out.
    """
    parameters = count_parameters(shape)
    flops = 2.0 * (parameters.block * (prompts * ASSUMED_PROMPT_TOKENS + completions) + parameters.head * completions)
    return Costs(
        tokens=float(completions),
        flops=flops,
        seconds=None if rates is None else flops / rates.decoding,
        disk_bytes=completions * SAMPLE_BYTES,
    )
