"""What the trainer needs of a model; `Decoder` and `TransformersModel` provide it.

Axes: C target tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, Self

import torch
from torch import Tensor

from rethink.kernels.head import TokenObjective
from rethink.model.decoder.packing import PackedBatch


class LanguageModel(Protocol):
    """Parameters, log-probabilities and a differentiable loss over packed batches."""

    dtype: torch.dtype
    device: torch.device

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Trainable leaf tensors in a fixed order, each once."""
        ...

    def completion_logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [C] of the completions' tokens, without a graph."""
        ...

    def completion_loss(
        self,
        batch: PackedBatch,
        objective: TokenObjective,
        temperature: float = 1.0,
        *,
        whole: bool = False,
        together: bool = False,
        bonus_C: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the objective, with a graph; log-probabilities and entropies [C], detached.

        With `bonus_C` [C] the entropy of each target's distribution, times the number there, is taken off the sum.

        The objective is called with parts of the targets, cut anywhere; with `whole`, only with whole completions,
        which may cost a second pass of the head; with `together`, once with all targets, which may cost a second
        forward pass of the model.
        """
        ...

    def clone(self) -> Self:
        """A frozen copy with weights of its own."""
        ...

    def hf_tensors(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Weights under Hugging Face names; `values` replaces the parameters (e.g. fp32 masters)."""
        ...
