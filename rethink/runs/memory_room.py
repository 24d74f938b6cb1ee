"""Whether a run fits into the memory that is free, said before its model is loaded, with what would fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rethink.errors import UsageError
from rethink.machine.limits import free_memory
from rethink.model.decoder.config import DecoderConfig
from rethink.plan.estimate import (
    BYTES_A_PARAMETER,
    GIB,
    Memory,
    activation_bytes,
    count_parameters,
    shape_of,
    sharded_memory,
    training_memory,
)
from rethink.recipe.schema import ModelShape, OptimizerSection
from rethink.runs.choices import recorded_lanes
from rethink.runs.ranks import FSDP2, launch_here

SMALLEST_COMPLETION = 16
"""Tokens; a shorter limit is not proposed."""


def check_training_room(
    optimizer: OptimizerSection,
    config: DecoderConfig | None,
    choices: Mapping[str, Any],
    longest: int,
    batch: int,
    *,
    logits: bool = True,
    reference: bool = False,
) -> None:
    """Refuse a run that samples nothing and is planned to need more memory than is free.

    Args:
        optimizer: of the recipe.
        config: of the model; None: not known, and then nothing is refused.
        choices: of the run: they decide micro-batch and lanes.
        longest: tokens of the longest document.
        batch: tokens of a step's documents, at most.
        logits: whether it computes any.
        reference: whether a reference model is held too.

    Raises:
        UsageError: it does not fit, and the recipe does not say to go on anyway.
    """
    if config is None:
        return
    shape, value_bytes = shape_of(config), 2 if choices["dtype"] == "bfloat16" else 4
    most = max(longest, min(batch, int(choices["micro_batch_tokens"])))
    memory = training_memory(shape, value_bytes, longest, most, logits=logits, lanes=recorded_lanes(choices))
    memory = on_ranks(memory, shape, value_bytes, choices["device"])
    if reference:
        memory = replace(memory, reference_weights=value_bytes * count_parameters(shape).total)
    room = room_refused(optimizer, memory, choices["device"])
    if room is None:
        return
    token = activation_bytes(shape, value_bytes)
    ways = smaller_batches(memory, token, room)
    if not ways and room // token >= SMALLEST_COMPLETION:
        ways = [f"max_tokens={room // token} (longer rows are refused or left out: overlong, unusable)"]
    raise too_much(memory, room, ways)


def on_ranks(memory: Memory, shape: ModelShape, value_bytes: int, device: str) -> Memory:
    """The memory of a run in one process as the ranks need it that are to share it here."""
    launch = launch_here()
    if launch is None or launch.strategy != FSDP2:
        return memory
    return sharded_memory(memory, shape, value_bytes, launch.size, launch.size if device == "cpu" else 1)


def room_refused(optimizer: OptimizerSection, memory: Memory, device: str) -> int | None:
    """What is left for activations, keys and values where the run does not fit; None where it does, or goes anyway."""
    room = free_memory(device) - memory.weights - memory.logits
    fits = memory.at_once(memory.keys_and_values_most, memory.activations_most) <= room
    return None if fits or optimizer.over_memory else room


def smaller_batches(memory: Memory, token_bytes: int, room: int) -> list[str]:
    """The largest micro-batch that fits, where one does."""
    if not memory.activations_least <= room < memory.activations_most:
        return []
    return [f"optimizer.micro_batch_tokens={room // token_bytes}"]


def too_much(memory: Memory, room: int, ways: list[str]) -> UsageError:
    """The error that names what takes the memory, and ways that would fit."""
    planned = memory.weights + memory.logits + memory.at_once(memory.keys_and_values_most, memory.activations_most)
    free = room + memory.weights + memory.logits
    parts = [
        ("weights, gradients and optimizer", memory.master_and_optimizer + memory.compute_weights),
        ("the reference model", memory.reference_weights),
        ("the critic and its optimizer", memory.critic),
        ("the engine's copy of the weights", memory.engine_weights),
        ("activations of a micro-batch", memory.activations_most),
        ("keys and values while sampling", memory.keys_and_values_most),
    ]
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts if size)
    if ways:
        advice = "What would fit: " + ", ".join(ways)
    else:
        most = max(free - memory.logits, 0) / BYTES_A_PARAMETER / 1e6
        advice = f"Take a model of less than {most:,.0f} million parameters, or a machine with more memory"
    return UsageError(
        f"the run is planned to need {planned / GIB:.1f} GiB ({listed}), and {max(free, 0) / GIB:.1f} GiB are free, "
        f"limits of control groups counted. {advice}. To go on anyway, at the risk of being killed: --over-memory, or "
        "optimizer.over_memory=true in the recipe"
    )
