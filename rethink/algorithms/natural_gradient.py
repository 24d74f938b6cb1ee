"""The natural gradient by conjugate gradients, and what a step along it does, from logits.

A vector is a mapping of names to tensors, as a model's parameters are.

Axes: C tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Vector = Mapping[str, Tensor]


class Solution(NamedTuple):
    """What conjugate gradients found for A x = b."""

    x: Vector
    curvature: float
    """x^T A x."""
    residual: float
    """|b - A x| / |b|."""


def dot(one: Vector, two: Vector) -> float:
    """The scalar product, each tensor's summed in its own type and the sums in fp64."""
    return sum(float((one[name] * two[name]).sum()) for name in one)


def conjugate_gradients(
    product: Callable[[Vector], Vector], target: Vector, iterations: int, tolerance: float = 1e-10
) -> Solution:
    """x with A x = target, as far as so many steps come: Hestenes and Stiefel 1952; TRPO (arXiv 1502.05477) appendix C.

    Args:
        product: v -> A v, A symmetric and positive definite.
        target: not 0.
        iterations: most products.
        tolerance: ends where |b - A x|^2 falls below so much of |b|^2.
    """
    x = {name: torch.zeros_like(value) for name, value in target.items()}
    rest = {name: value.clone() for name, value in target.items()}
    direction = dict(target)
    start = left = dot(rest, rest)
    for _ in range(iterations):
        if left <= tolerance * start:
            break
        image = product(direction)
        length = left / dot(direction, image)
        for name in x:
            x[name] += length * direction[name]
            rest[name] -= length * image[name]
        before, left = left, dot(rest, rest)
        direction = {name: rest[name] + (left / before) * direction[name] for name in rest}
    return Solution(x, dot(x, target) - dot(x, rest), (left / start) ** 0.5)


def fisher_of_logits(logits_CV: Tensor, change_CV: Tensor) -> Tensor:
    """[C, V] (diag(p) - p p^T) of each token's softmax, times a change of its logits: the Hessian of
    KL(p_old || p) in the logits, at p = p_old.
    """
    p_CV = logits_CV.softmax(-1)
    return p_CV * (change_CV - (p_CV * change_CV).sum(-1, keepdim=True))


def kl_of_logits(old_CV: Tensor, new_CV: Tensor) -> Tensor:
    """[C] KL(p_old || p_new) of each token's whole distribution, nats; at least 0 but for rounding."""
    old, new = old_CV.log_softmax(-1), new_CV.log_softmax(-1)
    return (old.exp() * (old - new)).sum(-1)
