"""AdamW on fp32 weights, with gradients added up in fp32 as the backward pass makes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from rethink.errors import NumericsError, RunFolderError
from rethink.kernels.adamw import Update, adamw_, join, split
from rethink.machine.allocator import return_free_memory
from rethink.recipe.schema import OptimizerSection


class Trainable(Protocol):
    """What has weights to train: a language model, a reward model."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Trainable leaf tensors in a fixed order, each once."""
        ...


class MasterAdamW:
    """AdamW (arXiv 1711.05101) whose weights and state are fp32 whatever the model computes in.

    A bf16 model's own weights are the upper halves of the fp32 ones, the masters; the lower halves are kept here
    (`kernels.adamw`). Models in fp32 or fp64 are their own masters.
    Gradients of every backward pass are added to fp32 buffers at once, so that accumulation over micro-batches loses
    nothing: by the kernels themselves, which find the buffer on the weight (`main_grad`), or by a hook.
    Weight decay applies to matrices, not to norms and biases.

    Args:
        model: what is trained.
        section: rate and constants.
        exact: fp32 values, by parameter name, that the model's weights were rounded from (`build.exact_weights`);
            they are taken out one by one, so that their memory serves what is made here. A master that starts from a
            rounded weight lies in the middle of its rounding interval, and small updates would not show before they
            have added up to half of it.
    """

    def __init__(self, model: Trainable, section: OptimizerSection, exact: dict[str, Tensor] | None = None):
        self._weights = dict(model.named_parameters())
        self._low: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            if weight.dtype == torch.bfloat16:
                # Rounding is the model's, so only what it took away is news.
                self._low[name] = split(exact.pop(name) if exact else weight.detach().float())[1]
            self._gradients[name] = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            weight.main_grad = self._gradients[name]  # type: ignore[attr-defined]
            weight.register_post_accumulate_grad_hook(_collect)
        # Moments at once, below whatever a step takes and gives back: made in the first step they would lie between.
        self._means = {name: torch.zeros_like(gradient) for name, gradient in self._gradients.items()}
        self._squares = {name: torch.zeros_like(gradient) for name, gradient in self._gradients.items()}
        self._updates = 0
        self._section = section
        return_free_memory()

    def gradients(self) -> dict[str, Tensor]:
        """The fp32 gradients collected since the last step, by parameter name."""
        return dict(self._gradients)

    def masters(self) -> dict[str, Tensor]:
        """The fp32 weights by parameter name: copies, where the model computes in bf16."""
        return {
            name: join(weight, self._low[name]) if name in self._low else weight.detach()
            for name, weight in self._weights.items()
        }

    def step(self, learning_rate: float) -> float:
        """Clip, update the masters and with them the model, clear the gradients. Returns the norm before clipping.

        Raises:
            NumericsError: a gradient is not finite; nothing was changed.
        """
        norm = math.sqrt(sum(float(torch.linalg.vector_norm(g)) ** 2 for g in self._gradients.values()))
        if not math.isfinite(norm):
            raise NumericsError(
                "the gradient is not finite (NaN or infinity), so this step was not taken; what was saved is "
                "untouched. These values are part of what a run is, so start anew with another --out and a lower "
                "optimizer.learning_rate, with optimizer.max_grad_norm set, or with model.dtype=float32"
            )
        section, most = self._section, self._section.max_grad_norm
        scale = most / norm if most is not None and norm > most else 1.0
        self._updates += 1
        update = Update(self._updates, learning_rate, section.beta1, section.beta2, section.epsilon, scale)
        for name, weight in self._weights.items():
            moments = self._means[name], self._squares[name]
            decay = section.weight_decay if weight.ndim >= 2 else 0.0
            adamw_(weight, self._low.get(name), self._gradients[name], *moments, decay, update)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything that resuming needs, as named tensors: weights in both halves, both moments, count of updates."""
        parts = {
            "weight": self._weights, "low": self._low, "exp_avg": self._means, "exp_avg_sq": self._squares
        }  # fmt: skip
        out = {f"{part}.{name}": tensor.detach() for part, named in parts.items() for name, tensor in named.items()}
        return out | {"updates": torch.tensor([self._updates], dtype=torch.int64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`: the model's weights too.

        Raises:
            RunFolderError: the state was written by an earlier version, which kept it in another form.
        """
        own = self.state()
        if not state.keys() >= own.keys():
            raise RunFolderError(
                "this checkpoint is of an earlier version, which kept weights in another form: resume it with that "
                "version, or start anew with another --out (model.path=RUN/model goes on from its last model)"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        self._updates = int(own["updates"])


def learning_rate(section: OptimizerSection, step: int, total: int) -> float:
    """Rate of update number `step` (0-based) of `total`: linear warm-up, then the schedule down to `final_rate`.

    Every update has a rate above 0: the first of a warm-up has a part of the peak, and the schedule arrives at
    `final_rate` after the last update, as the schedules of transformers do.
    """
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    span = max(total - section.warmup_steps, 1)
    progress = min((step - section.warmup_steps) / span, 1.0)
    fall = section.learning_rate - section.final_rate
    if section.schedule == "linear":
        return section.learning_rate - fall * progress
    return section.final_rate + fall * (1 + math.cos(math.pi * progress)) / 2


def _collect(weight: Tensor) -> None:
    """Hook of a weight: what a backward pass leaves in `grad` goes to `main_grad`.

    It holds nothing itself. torch keeps hooks where the garbage collector does not look, so one that held the optimizer
    would keep it, and the weights, for the life of the process.
    """
    if weight.grad is not None:
        gradient: Tensor = weight.main_grad  # type: ignore[attr-defined]
        if weight.grad is not gradient:
            gradient.add_(weight.grad)
        weight.grad = None
