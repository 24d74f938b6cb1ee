"""AdamW on fp32 master weights, with gradients added up in fp32 as the backward pass makes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from rethink.errors import NumericsError
from rethink.recipe.schema import OptimizerSection


class Trainable(Protocol):
    """What has weights to train: a language model, a reward model."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Trainable leaf tensors in a fixed order, each once."""
        ...


class MasterAdamW:
    """AdamW (arXiv 1711.05101) whose state is fp32 whatever the model computes in.

    Gradients of every backward pass are added to fp32 buffers at once, so that accumulation over micro-batches loses
    nothing: by the kernels themselves, which find the buffer on the weight (`main_grad`), or by a hook. Models in fp32
    or fp64 are their own masters.
    Weight decay applies to matrices, not to norms and biases.

    Args:
        model: what is trained.
        section: rate and constants.
        exact: fp32 values, by parameter name, that the model's weights were rounded from (`build.exact_weights`): the
            masters take these tensors over. A master that starts from a rounded weight lies in the middle of its
            rounding interval, and small updates would not show before they have added up to half of it.
    """

    def __init__(self, model: Trainable, section: OptimizerSection, exact: Mapping[str, Tensor] | None = None):
        self._weights = dict(model.named_parameters())
        self.masters = {name: _master(weight, (exact or {}).get(name)) for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            self.masters[name].grad = torch.zeros_like(self.masters[name])
            weight.main_grad = self.masters[name].grad  # type: ignore[attr-defined]
            weight.register_post_accumulate_grad_hook(self._collector(name))
        self._max_norm = section.max_grad_norm
        matrices = [m for m in self.masters.values() if m.ndim >= 2]
        vectors = [m for m in self.masters.values() if m.ndim < 2]
        self._adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=section.learning_rate,
            betas=(section.beta1, section.beta2),
            eps=section.epsilon,
            fused=True,
        )
        # Moments at once, below whatever a step takes and gives back: made in the first step they would lie between.
        for master in self.masters.values():
            self._adamw.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def _collector(self, name: str):  # type: ignore[no-untyped-def]
        def collect(weight: Tensor) -> None:
            gradient = self.masters[name].grad
            if weight.grad is not None and gradient is not None:
                if weight.grad is not gradient:
                    gradient.add_(weight.grad)
                weight.grad = None

        return collect

    def gradients(self) -> dict[str, Tensor]:
        """The fp32 gradients collected since the last step, by parameter name."""
        return {name: master.grad for name, master in self.masters.items() if master.grad is not None}

    def step(self, learning_rate: float) -> float:
        """Clip, update the masters, cast them into the model, clear the gradients. Returns the norm before clipping.

        Raises:
            NumericsError: a gradient is not finite; nothing was changed.
        """
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = math.sqrt(sum(float(torch.linalg.vector_norm(g)) ** 2 for g in gradients))
        if not math.isfinite(norm):
            raise NumericsError(
                "the gradient is not finite (NaN or infinity), so this step was not taken; what was saved is "
                "untouched. These values are part of what a run is, so start anew with another --out and a lower "
                "optimizer.learning_rate, with optimizer.max_grad_norm set, or with model.dtype=float32"
            )
        if self._max_norm is not None and norm > self._max_norm:
            torch._foreach_mul_(gradients, self._max_norm / norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        with torch.no_grad():
            for name, weight in self._weights.items():
                if weight.data_ptr() != self.masters[name].data_ptr():
                    weight.copy_(self.masters[name])
        self.clear()
        return norm

    def clear(self) -> None:
        """Forget the collected gradients."""
        torch._foreach_zero_([m.grad for m in self.masters.values() if m.grad is not None])

    def state(self) -> dict[str, Tensor]:
        """Everything that resuming needs, as named tensors: masters, both moments, and the count of updates."""
        out = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            moments = self._adamw.state.get(master)
            if moments:
                out[f"exp_avg.{name}"] = moments["exp_avg"]
                out[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"]
                out["updates"] = moments["step"].reshape(1)
        return {name: tensor.detach() for name, tensor in out.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`; also casts the masters into the model."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state[f"master.{name}"])
                if f"exp_avg.{name}" in state:
                    # Where the master is: the fused update of CUDA wants even the count there.
                    self._adamw.state[master] = {
                        "step": state["updates"].reshape(()).to(master.device, torch.float32, copy=True),
                        "exp_avg": state[f"exp_avg.{name}"].to(master.device, copy=True),
                        "exp_avg_sq": state[f"exp_avg_sq.{name}"].to(master.device, copy=True),
                    }
                weight = self._weights[name]
                if weight.data_ptr() != master.data_ptr():
                    weight.copy_(master)


def _master(weight: Tensor, exact: Tensor | None) -> Tensor:
    """The fp32 twin of a weight: itself (same storage) where it is fp32 or better already."""
    if weight.dtype in (torch.float32, torch.float64):
        return weight.detach()
    return weight.detach().float() if exact is None else exact


def learning_rate(section: OptimizerSection, step: int, total: int) -> float:
    """Rate of update number `step` (0-based) of `total`: linear warm-up, then the schedule down to `final_rate`."""
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    span = max(total - section.warmup_steps - 1, 1)
    progress = min((step - section.warmup_steps) / span, 1.0)
    fall = section.learning_rate - section.final_rate
    if section.schedule == "linear":
        return section.learning_rate - fall * progress
    return section.final_rate + fall * (1 + math.cos(math.pi * progress)) / 2
