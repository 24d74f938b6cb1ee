"""AdamW on fp32 weights of which a bf16 model holds the upper half.

A bf16 number is the upper half of an fp32 number's bits, rounded. What rounding took away fits 16 bits, signed: so the
model's own weight and one int16 beside it are the fp32 weight, with no second copy of the upper half. The one case that
does not fit, exactly between two bf16 numbers and rounded down, is moved by one unit in fp32's last place.

Axes: N entries of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from rethink.kernels.native import ops

CHUNK = 1 << 20
"""Entries whose fp32 weight exists at once on the reference path."""


@dataclass(frozen=True, slots=True)
class Update:
    """What is the same for every weight in one update (arXiv 1711.05101, algorithm 2)."""

    number: int
    """1 for the first."""
    rate: float
    beta1: float
    beta2: float
    epsilon: float
    gradient_scale: float
    """What gradients are multiplied with first (clipping)."""


def split(exact: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 to bf16, rounded to nearest, and the int16 that `join` needs besides."""
    weight = exact.to(torch.bfloat16)
    low = exact.contiguous().view(torch.int32) - (weight.view(torch.int16).to(torch.int32) << 16)
    return weight, low.clamp_(max=torch.iinfo(torch.int16).max).to(torch.int16)


def join(weight: Tensor, low: Tensor) -> Tensor:
    """The fp32 weight of which these are the two halves."""
    return ((weight.detach().view(torch.int16).to(torch.int32) << 16) + low).view(torch.float32)


def adamw_(
    weight: Tensor, low: Tensor | None, gradient: Tensor, mean: Tensor, square: Tensor, decay: float, update: Update
) -> None:
    """One update in place; the gradient is cleared.

    Args:
        weight: bf16, fp32 or fp64, contiguous.
        low: int16 as `split` makes it, for bf16; None for the others, which are exact themselves.
        gradient: fp32 (fp64 for fp64), as the moments are.
        mean: running mean of gradients.
        square: running mean of their squares.
        decay: weight decay, a share of the weight per unit of rate.
        update: the rest.
    """
    parts = [t.detach().view(-1) for t in (weight, gradient, mean, square)]
    halves = None if low is None else low.view(-1)
    if weight.dtype != torch.float64 and ops.usable(weight):
        step = update.rate / (1 - update.beta1**update.number)
        spread = (1 - update.beta2**update.number) ** 0.5
        numbers = ops.AdamWNumbers(
            update.gradient_scale, 1 - update.rate * decay, 1 - update.beta1, update.beta2, step, spread, update.epsilon
        )
        ops.adamw(parts[0], halves, parts[1], parts[2], parts[3], numbers)
        return
    for first in range(0, weight.numel(), CHUNK):
        chunk = slice(first, first + CHUNK)
        weight_N, gradient_N, mean_N, square_N = (part[chunk] for part in parts)
        _reference(weight_N, gradient_N, mean_N, square_N, None if halves is None else halves[chunk], decay, update)


def _reference(
    weight_N: Tensor, gradient_N: Tensor, mean_N: Tensor, square_N: Tensor, low_N: Tensor | None, decay: float,
    update: Update,
) -> None:  # fmt: skip
    exact = weight_N if low_N is None else join(weight_N, low_N)
    gradient_N.mul_(update.gradient_scale)
    adamw(
        [exact], [gradient_N], [mean_N], [square_N], [],
        [torch.tensor(float(update.number - 1), device=exact.device)],
        fused=True, amsgrad=False, beta1=update.beta1, beta2=update.beta2, lr=update.rate, weight_decay=decay,
        eps=update.epsilon, maximize=False,
    )  # fmt: skip
    gradient_N.zero_()
    if low_N is not None:
        rounded, rest = split(exact)
        weight_N.copy_(rounded)
        low_N.copy_(rest)
