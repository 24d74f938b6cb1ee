"""What the recipe leaves to the machine: decided once at start, recorded, and reused on every resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rethink.errors import RecipeError, RunFolderError
from rethink.kernels.native import library as kernels
from rethink.machine.allocator import tune_allocator
from rethink.machine.limits import free_memory, usable_threads
from rethink.machine.speed import choose_dtype, measure_gemm
from rethink.model.config import DecoderConfig
from rethink.model.value_head import HEAD_FILE
from rethink.plan.estimate import (
    BYTES_A_PARAMETER,
    MICRO_BATCH_TOKENS,
    activation_bytes,
    count_parameters,
    shape_of,
)
from rethink.recipe.base import AnyRecipe, ModelRecipe, TrainingRecipe
from rethink.recipe.schema import RewardSection
from rethink.rollout.pages import default_budget

ACTIVATION_SHARE = 0.35
"""Share of the memory beside weights and optimizer that one micro-batch's activations may take."""


def make_choices(recipe: TrainingRecipe, config: DecoderConfig | None, kv_budget_gb: float | None) -> dict[str, Any]:
    """Threads, device, dtype, kernels, micro-batch and KV budget for this machine; plain JSON values.

    Args:
        recipe: of a run that samples and trains.
        config: of its model, where it is known.
        kv_budget_gb: as the recipe says.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    choices = training_choices(recipe, config)
    return choices | kv_choice(choices["device"], config, kv_budget_gb)


def kv_choice(device: str, config: DecoderConfig | None, kv_budget_gb: float | None) -> dict[str, int]:
    """The KV budget alone: what the recipe says, or a share of what weights and optimizer leave."""
    if kv_budget_gb:
        return {"kv_budget_bytes": int(kv_budget_gb * 2**30)}
    budget = default_budget(device)
    if config is not None:
        budget = min(budget, max(free_memory(device) - _trained_bytes(config), 0))
    return {"kv_budget_bytes": budget}


def training_choices(recipe: TrainingRecipe, config: DecoderConfig | None) -> dict[str, Any]:
    """As `make_choices`, for a run that samples nothing.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    choices = computing_choices(recipe)
    tokens = recipe.optimizer.micro_batch_tokens or _micro_batch(config, choices["dtype"], choices["device"])
    return choices | {"micro_batch_tokens": tokens}


def computing_choices(recipe: ModelRecipe) -> dict[str, Any]:
    """As `make_choices`, for a run that trains nothing.

    Raises:
        RecipeError: CUDA is asked for where there is none.
    """
    check_device(recipe)
    threads = recipe.threads or usable_threads()
    torch.set_num_threads(threads)
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = recipe.model.dtype if recipe.model.dtype != "auto" else choose_dtype(measure_gemm(device=device))
    return {"threads": threads, "device": device, "dtype": dtype, "kernels": kernels.status().level}


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


def check_device(recipe: AnyRecipe) -> None:
    """Refuse a device that is not there.

    Raises:
        RecipeError: CUDA is asked for and torch has none.
    """
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "`device` is `cuda`, but torch finds no CUDA device here. Write `device=auto` (or `cpu`) to compute on the "
            "processor, or install a torch with CUDA and its driver; `rethink doctor` shows what is found."
        )


def apply_choices(choices: dict[str, Any]) -> None:
    """Set what is global to the process: threads, allocator, exact products.

    Raises:
        RunFolderError: the run was started on a device that is not there.
    """
    if choices["device"] == "cuda" and not torch.cuda.is_available():
        raise RunFolderError(
            "this run was started on CUDA, and what was chosen at start holds for the whole run, but torch finds no "
            "CUDA device here. Go on where there is one, or start anew here with another --out."
        )
    torch.set_num_threads(int(choices["threads"]))
    tune_allocator()
    if choices["device"] == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False


def _micro_batch(config: DecoderConfig | None, dtype: str, device: str) -> int:
    lowest, highest = MICRO_BATCH_TOKENS[device]
    if config is None:
        return lowest * 8
    shape, value_bytes = shape_of(config), 2 if dtype == "bfloat16" else 4
    room = ACTIVATION_SHARE * max(free_memory(device) - _trained_bytes(config), 0)
    return max(lowest, min(highest, int(room / activation_bytes(shape, value_bytes))))


def _trained_bytes(config: DecoderConfig) -> int:
    """What weights, gradients and optimizer take."""
    return BYTES_A_PARAMETER * count_parameters(shape_of(config)).total
