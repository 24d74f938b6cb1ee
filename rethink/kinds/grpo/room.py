"""Whether a GRPO run fits into the memory that is free, said before its model is loaded, with what would fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.decoder.config import DecoderConfig
from rethink.plan.estimate import ASSUMED_PROMPT_TOKENS, GIB, activation_bytes, shape_of
from rethink.runs.choices import recorded_lanes
from rethink.runs.memory_room import SMALLEST_COMPLETION, on_ranks, room_refused, smaller_batches, too_much


def check_grpo_room(
    recipe: Recipe,
    config: DecoderConfig | None,
    choices: Mapping[str, Any],
    critic: DecoderConfig | None = None,
) -> None:
    """Refuse a GRPO run that is planned to need more memory than is free.

    Args:
        recipe: of the run. Prompts are assumed to be of the usual length; no reward model is counted.
        config: of the model; None: not known, and then nothing is refused.
        choices: of the run: they decide the micro-batch, and the memory for keys and values.
        critic: configuration of the critic's model, where there is a critic.

    Raises:
        UsageError: it does not fit, and the recipe does not say to go on anyway.
    """
    if config is None:
        return
    shape = shape_of(config)
    chosen = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"dtype": choices["dtype"]}),
            "optimizer": recipe.optimizer.model_copy(
                update={"micro_batch_tokens": choices["micro_batch_tokens"], "lanes": recorded_lanes(choices)}
            ),
            "rollout": recipe.rollout.model_copy(update={"kv_budget_gb": choices["kv_budget_bytes"] / GIB}),
        }
    )
    prompt = min(ASSUMED_PROMPT_TOKENS, shape.context)
    judge = None if critic is None else shape_of(critic)
    memory = estimate(chosen, shape, prompt_tokens=prompt, critic=judge).memory
    memory = on_ranks(memory, shape, chosen.model.value_bytes, choices["device"])
    room = room_refused(recipe.optimizer, memory, choices["device"])
    if room is None:
        return
    token = activation_bytes(shape, chosen.model.value_bytes)
    ways = smaller_batches(memory, token, room)
    shorter = min(room // token, room * (prompt + recipe.longest_completion) // memory.keys_and_values_least) - prompt
    least = max(memory.activations_least, memory.keys_and_values_least)
    if least > room and shorter >= SMALLEST_COMPLETION:
        ways = [f"rollout.max_new_tokens={shorter}", f"optimizer.micro_batch_tokens={prompt + shorter}"]
    if memory.keys_and_values_most > room >= memory.keys_and_values_least:
        ways.append(f"rollout.kv_budget_gb={math.floor(100 * room / GIB) / 100}")
    if not ways and room + memory.reference_weights > least:
        ways = ["algorithm.beta=0 (no reference model)"]
    if not ways and room + memory.critic > least:
        ways = ["a run without a critic (algorithm.type=grpo, no section `critic`), or a smaller critic.model"]
    raise too_much(memory, room, ways)
