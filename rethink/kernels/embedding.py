"""Looking up embeddings; their gradient goes straight to the rows that were used.

Axes: T tokens, V vocabulary, E hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.linear import main_grad


def embed(tokens_T: Tensor, weight_VE: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of the embedding [T, E] in `dtype`, differentiable in the weight."""
    result: Tensor = _Embed.apply(tokens_T, weight_VE, dtype)  # type: ignore[no-untyped-call]
    return result


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.weight = weight
        return F.embedding(tokens, weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (tokens,), weight = ctx.saved_tensors, ctx.weight
        kept = main_grad(weight)
        if kept is not None:
            kept.index_add_(0, tokens, grads[0].to(kept.dtype))
            return None, None, None
        out = torch.zeros(weight.shape, dtype=grads[0].dtype, device=weight.device)
        return None, out.index_add_(0, tokens, grads[0]).to(weight.dtype), None
