"""What the algorithms agree on about numbers: the smallest precision, and the largest exponent."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Largest log of a probability ratio that is exponentiated (e^20 is 4.9e8). Beyond it the value is held and its
gradient is 0: a ratio of that size means that the two models disagree on the token altogether, and one such token
would otherwise decide the whole batch, or make it infinite (fp32 overflows at e^88)."""


def at_least_fp32(values: Tensor) -> Tensor:
    """The values in fp32, or in fp64 if they are: differences of log-probabilities in bf16 are noise."""
    return values if values.dtype == torch.float64 else values.float()


def probability_ratio(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """exp(logprobs - other_logprobs), the exponent limited above by `MAX_LOG_RATIO`; differentiable in both."""
    return (at_least_fp32(logprobs) - at_least_fp32(other_logprobs)).clamp(max=MAX_LOG_RATIO).exp()
