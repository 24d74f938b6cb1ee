"""What the recipe leaves to the machine: decided once at start, recorded, and reused on every resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rethink.errors import RecipeError, RunFolderError
from rethink.kernels.native import library as kernels
from rethink.machine.limits import free_memory
from rethink.machine.placement import KV_SHARE, Placement
from rethink.model.decoder.config import DecoderConfig
from rethink.model.heads.value_head import HEAD_FILE
from rethink.plan.estimate import (
    BYTES_A_PARAMETER,
    MICRO_BATCH_TOKENS,
    activation_bytes,
    count_parameters,
    shape_of,
)
from rethink.recipe.base import ModelRecipe, TrainingRecipe
from rethink.recipe.schema import RewardSection
from rethink.runs.ranks import REPLICATED, launch_here

STRATEGY = "strategy"
"""Key of the choice how trainer ranks hold weights; runs without one replicate them."""
ACTIVATION_SHARE = 0.35
"""Share of the memory beside weights and optimizer that one micro-batch's activations may take."""


def make_choices(
    recipe: TrainingRecipe,
    config: DecoderConfig | None,
    kv_budget_gb: float | None,
    critic: DecoderConfig | None = None,
) -> dict[str, Any]:
    """Threads, device, dtype, kernels, micro-batch, lanes and KV budget for this machine; plain JSON values.

    Args:
        recipe: of a run that samples and trains.
        config: of its model, where it is known.
        kv_budget_gb: as the recipe says.
        critic: the configuration of a second model that is trained beside it.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    choices = training_choices(recipe, config, critic)
    return choices | kv_choice(choices["device"], config, kv_budget_gb, critic)


def kv_choice(
    device: str, config: DecoderConfig | None, kv_budget_gb: float | None, critic: DecoderConfig | None = None
) -> dict[str, int]:
    """The KV budget alone: what the recipe says, or a share of what weights and optimizer leave."""
    if kv_budget_gb:
        return {"kv_budget_bytes": int(kv_budget_gb * 2**30)}
    free = free_memory(device)
    budget = int(free * KV_SHARE)
    if config is not None:
        budget = min(budget, max(free - _trained_bytes(config, critic), 0))
    return {"kv_budget_bytes": budget}


def training_choices(
    recipe: TrainingRecipe, config: DecoderConfig | None, critic: DecoderConfig | None = None
) -> dict[str, Any]:
    """As `make_choices`, for a run that samples nothing.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    launch = launch_here()
    if launch is not None and not recipe.threads:
        recipe = recipe.model_copy(update={"threads": launch.threads})
    choices = computing_choices(recipe)
    tokens = recipe.optimizer.micro_batch_tokens or _micro_batch(choices["dtype"], choices["device"], config, critic)
    lanes = recipe.optimizer.lanes or (1 if launch is None else launch.size)
    strategy = {} if launch is None or launch.strategy == REPLICATED else {STRATEGY: launch.strategy}
    return choices | {"micro_batch_tokens": tokens, "lanes": lanes} | strategy


def computing_choices(recipe: ModelRecipe) -> dict[str, Any]:
    """As `make_choices`, for a run that trains nothing.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    placed = Placement(recipe.threads, recipe.device, recipe.model.dtype).decided()
    return {
        "threads": placed.threads,
        "device": placed.device,
        "dtype": placed.dtype,
        "kernels": kernels.status().level,
    }


def recorded_lanes(choices: Mapping[str, Any]) -> int:
    """The lanes of a run; runs that an earlier version began have one."""
    return int(choices.get("lanes", 1))


def check_reward_models(reward: RewardSection) -> None:
    """Refuse a reward model that is not there.

    Raises:
        RecipeError: names its part and its path.
    """
    paths = {part.name: part.model or part.params.get("model") for part in reward.parts if part.is_reward_model}
    for name, path in paths.items():
        try:
            (Path(str(path)).expanduser() / HEAD_FILE).open("rb").close()
        except OSError as error:
            raise RecipeError(
                f"the reward model of the part `{name}`, `{path}`, cannot be read ({error.strerror or error}): name "
                "the folder `model` of a run of the kind `reward-model`"
            ) from error


def apply_choices(choices: Mapping[str, Any]) -> Placement:
    """What a run chose at start, set for this process.

    Raises:
        RunFolderError: the run was started on a device that is not there, or with ranks that hold weights otherwise.
        UsageError: it cannot be shared among the ranks that are asked for.
    """
    if "micro_batch_tokens" in choices:  # it trains
        _check_ranks(choices)
    if choices["device"] == "cuda" and not torch.cuda.is_available():
        raise RunFolderError(
            "this run was started on CUDA, and what was chosen at start holds for the whole run, but torch finds no "
            "CUDA device here. Go on where there is one, or start anew here with another --out."
        )
    placed = Placement(int(choices["threads"]), choices["device"], choices["dtype"], choices.get("kv_budget_bytes"))
    placed.apply()
    return placed


def _check_ranks(choices: Mapping[str, Any]) -> None:
    launch, begun = launch_here(), choices.get(STRATEGY, REPLICATED)
    if (REPLICATED if launch is None else launch.strategy) != begun:
        advice = (
            "leave `trainer` out of the cluster file"
            if begun == REPLICATED
            else f"give a cluster file with `trainer: {{strategy: {begun}}}` and `ranks`"
        )
        raise RunFolderError(
            f"this run was started with the trainer strategy `{begun}`, which decides how sums are rounded and what "
            f"its checkpoints hold. To go on, {advice}"
        )
    if launch is not None:
        launch.check(choices)


def _micro_batch(dtype: str, device: str, config: DecoderConfig | None, critic: DecoderConfig | None) -> int:
    lowest, highest = MICRO_BATCH_TOKENS[device]
    if config is None:
        return lowest * 8
    shape, value_bytes = shape_of(config), 2 if dtype == "bfloat16" else 4
    room = ACTIVATION_SHARE * max(free_memory(device) - _trained_bytes(config, critic), 0)
    return max(lowest, min(highest, int(room / activation_bytes(shape, value_bytes))))


def _trained_bytes(*configs: DecoderConfig | None) -> int:
    """What weights, gradients and optimizer of all these models take."""
    return BYTES_A_PARAMETER * sum(count_parameters(shape_of(config)).total for config in configs if config is not None)
