"""Whether a run fits into the memory that is free, said before its model is loaded, with what would fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rethink.errors import UsageError
from rethink.machine.limits import free_memory
from rethink.model.config import DecoderConfig
from rethink.plan.estimate import (
    ASSUMED_PROMPT_TOKENS,
    BYTES_A_PARAMETER,
    GIB,
    Memory,
    activation_bytes,
    estimate,
    shape_of,
    training_memory,
)
from rethink.recipe.schema import OptimizerSection, Recipe

SMALLEST_COMPLETION = 16
"""Tokens; a shorter limit is not proposed."""


def check_grpo_room(recipe: Recipe, config: DecoderConfig | None, choices: Mapping[str, Any]) -> None:
    """Refuse a GRPO run that is planned to need more memory than is free.

    Args:
        recipe: of the run. Prompts are assumed to be of the usual length; no reward model is counted.
        config: of the model; None: not known, and then nothing is refused.
        choices: of the run: they decide the micro-batch, and the memory for keys and values.

    Raises:
        UsageError: it does not fit, and the recipe does not say to go on anyway.
    """
    if config is None:
        return
    shape = shape_of(config)
    chosen = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"dtype": choices["dtype"]}),
            "optimizer": recipe.optimizer.model_copy(update={"micro_batch_tokens": choices["micro_batch_tokens"]}),
            "rollout": recipe.rollout.model_copy(update={"kv_budget_gb": choices["kv_budget_bytes"] / GIB}),
        }
    )
    prompt = min(ASSUMED_PROMPT_TOKENS, shape.context)
    memory = estimate(chosen, shape, prompt_tokens=prompt).memory
    room = _refuse(recipe.optimizer, memory, choices["device"])
    if room is None:
        return
    token = activation_bytes(shape, chosen.model.value_bytes)
    ways = _smaller_batches(memory, token, room)
    shorter = min(room // token, room * (prompt + recipe.longest_completion) // memory.keys_and_values_least) - prompt
    least = max(memory.activations_least, memory.keys_and_values_least)
    if least > room and shorter >= SMALLEST_COMPLETION:
        ways = [f"rollout.max_new_tokens={shorter}", f"optimizer.micro_batch_tokens={prompt + shorter}"]
    if memory.keys_and_values_most > room >= memory.keys_and_values_least:
        ways.append(f"rollout.kv_budget_gb={math.floor(100 * room / GIB) / 100}")
    if not ways and room + memory.reference_weights > least:
        ways = ["algorithm.beta=0 (no reference model)"]
    raise _too_much(memory, room, ways)


def check_training_room(
    optimizer: OptimizerSection,
    config: DecoderConfig | None,
    choices: Mapping[str, Any],
    longest: int,
    batch: int,
    *,
    logits: bool = True,
) -> None:
    """As `check_grpo_room`, of a run that samples nothing.

    Args:
        optimizer: of the recipe.
        longest: tokens of the longest document.
        batch: tokens of a step's documents, at most.
        logits: whether it computes any.
    """
    if config is None:
        return
    shape, value_bytes = shape_of(config), 2 if choices["dtype"] == "bfloat16" else 4
    most = max(longest, min(batch, int(choices["micro_batch_tokens"])))
    memory = training_memory(shape, value_bytes, longest, most, logits=logits)
    room = _refuse(optimizer, memory, choices["device"])
    if room is None:
        return
    token = activation_bytes(shape, value_bytes)
    ways = _smaller_batches(memory, token, room)
    if not ways and room // token >= SMALLEST_COMPLETION:
        ways = [f"max_tokens={room // token} (longer rows are refused or left out: overlong, unusable)"]
    raise _too_much(memory, room, ways)


def _refuse(optimizer: OptimizerSection, memory: Memory, device: str) -> int | None:
    """What is left for activations, keys and values where the run does not fit; None where it does, or goes anyway."""
    room = free_memory(device) - memory.weights - memory.logits
    # Keys and values are given back before the policy is trained.
    fits = max(memory.keys_and_values_most, memory.activations_most) <= room
    return None if fits or optimizer.over_memory else room


def _smaller_batches(memory: Memory, token_bytes: int, room: int) -> list[str]:
    """The largest micro-batch that fits, where one does."""
    if not memory.activations_least <= room < memory.activations_most:
        return []
    return [f"optimizer.micro_batch_tokens={room // token_bytes}"]


def _too_much(memory: Memory, room: int, ways: list[str]) -> UsageError:
    planned = memory.weights + memory.logits + max(memory.keys_and_values_most, memory.activations_most)
    free = room + memory.weights + memory.logits
    parts = [
        ("weights, gradients and optimizer", memory.master_and_optimizer + memory.compute_weights),
        ("the reference model", memory.reference_weights),
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
