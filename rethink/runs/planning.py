"""What `--dry-run` of every kind that trains a model shares: the machine's rates, and the plan around an estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from rethink.errors import ModelError
from rethink.model.loading import Checkpoint
from rethink.plan.estimate import MachineRates, Memory, shape_of
from rethink.plan.gpus import gpus_text, plan_gpus
from rethink.recipe.base import ModelRecipe
from rethink.recipe.kind import Planned
from rethink.recipe.schema import ModelSection, ModelShape


class Estimated(Protocol):
    """What the estimates of all kinds have."""

    @property
    def memory(self) -> Memory: ...  # noqa: D102
    @property
    def total_flops(self) -> float: ...  # noqa: D102
    def to_dict(self) -> dict[str, Any]: ...  # noqa: D102


def measure(recipe: ModelRecipe) -> tuple[str, MachineRates]:
    """The compute type that the run would use here, and this machine's rates with it."""
    return measure_rates(recipe.threads, recipe.device, recipe.model.dtype)


def measure_rates(
    threads: int | None, device: str, wanted: Literal["auto", "bfloat16", "float32"]
) -> tuple[str, MachineRates]:
    """As `measure`, from the values of a recipe that it needs."""
    import torch

    from rethink.kernels.native.library import kernels_for
    from rethink.machine.limits import usable_threads
    from rethink.machine.speed import choose_dtype, measure_gemm

    torch.set_num_threads(threads or usable_threads())
    cuda = device != "cpu" and torch.cuda.is_available()
    rates = measure_gemm(device="cuda" if cuda else "cpu")
    dtype = choose_dtype(rates) if wanted == "auto" else wanted
    kernels = kernels_for(dtype, "cuda" if cuda else "cpu")
    return dtype, MachineRates.from_matrix_products(rates[dtype] * 1e9, kernels)


def planned(
    model: ModelSection,
    shape: ModelShape,
    dtype: str,
    expected: Estimated,
    text: str,
    longest: int,
    more: tuple[Mapping[str, Any], Sequence[str]] = ({}, ()),
) -> Planned:
    """The plan of a run that trains.

    Args:
        model: the recipe's section.
        shape: of the model.
        dtype: in which this machine would compute.
        expected: the estimate.
        text: the same as text.
        longest: tokens of the longest sequence.
        more: further facts, and lines before the text.
    """
    facts, lines = more
    gpus = plan_gpus(shape, expected.memory, longest, model.value_bytes, expected.total_flops)
    about = [*lines, text, f"Times are for this machine computing in {dtype}."]
    if words := gpus_text(gpus, expected.total_flops):
        about.append(words)
    return Planned(
        {"dtype": dtype, "estimate": expected.to_dict(), "gpus": None if gpus is None else asdict(gpus), **facts},
        "\n".join(about),
    )


def known_shape(model: ModelSection, checkpoint: Checkpoint) -> ModelShape:
    """The model's shape: declared, or from its headers.

    Raises:
        ModelError: it is of another family than our decoder's, and none is declared.
    """
    if model.shape is not None:
        return model.shape
    if checkpoint.config is None:
        raise ModelError(
            f"{model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for a dry "
            "run; to train it, none is needed."
        )
    return shape_of(checkpoint.config)
