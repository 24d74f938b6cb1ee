"""How token losses become one number: a weight per token, so that loss = sum over tokens of weight * token loss.

The weights depend on a mini-batch's totals, not on the part of it at hand. However a mini-batch is cut into
micro-batches, their weighted sums add up to the same loss, and gradient accumulation needs no further scaling.

Axes: N completions at hand, T their tokens, packed.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "fixed"]


def token_weights(
    completion_lengths_N: Tensor,
    kind: Aggregation,
    *,
    total_completions: int,
    total_tokens: int,
    denominator: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weight of each token of the completions at hand.

    - `sequence`: 1 / (total_completions * length), the mean within a completion, then over completions: DeepSeekMath
      (arXiv 2402.03300) equation 3, the 1/G of DeepSeek-R1's equation 1;
    - `token`: 1 / total_tokens, all tokens of the mini-batch equal: DAPO (arXiv 2503.14476) equation 8;
    - `fixed`: 1 / (total_completions * denominator), no influence of length at all: Dr. GRPO (arXiv 2503.20783).

    Args:
        completion_lengths_N: [N] integer tokens of each completion at hand; a micro-batch of the mini-batch.
        kind: which average.
        total_completions: completions of the whole mini-batch, also those left out of the computation for want of
            signal.
        total_tokens: completion tokens of the whole mini-batch, again with those left out.
        denominator: tokens that one completion's summed loss is divided by (`fixed` only).
        dtype: of the weights.

    Returns:
        [T] weights, T the sum of the lengths; empty where there are no tokens.

    Raises:
        ValueError: the totals are smaller than what is at hand, or the denominator is missing, not positive, or given
            for another kind.
    """
    tokens = int(completion_lengths_N.sum())
    if total_completions < len(completion_lengths_N) or total_tokens < tokens:
        raise ValueError(
            f"{len(completion_lengths_N)} completions with {tokens} tokens are at hand, but the mini-batch is said to "
            f"hold {total_completions} with {total_tokens}"
        )
    if (kind == "fixed") != (denominator is not None):
        raise ValueError(f"denominator is {denominator} with kind {kind!r}; it goes with 'fixed', and only there")
    # In fp64 first: 1 / (N * length) rounds once, to the dtype asked for.
    lengths = completion_lengths_N.to(torch.float64)
    if kind == "sequence":
        per_completion = 1.0 / (total_completions * lengths)
    elif kind == "token":
        per_completion = torch.full_like(lengths, 1.0 / max(total_tokens, 1))
    elif kind == "fixed" and denominator is not None:
        if denominator <= 0:
            raise ValueError(f"denominator is {denominator}; it must be above 0")
        per_completion = torch.full_like(lengths, 1.0 / (total_completions * denominator))
    else:
        raise ValueError(f"aggregation {kind!r}; allowed: 'sequence', 'token', 'fixed'")
    return per_completion.repeat_interleave(completion_lengths_N).to(dtype)
