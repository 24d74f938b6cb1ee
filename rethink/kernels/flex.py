"""Tree attention on a GPU: FlexAttention of torch, one compiled kernel for a packed row.

The pattern of a row (see `attention.py`) is one rule: query q sees key u where u <= q and q < end[u], the end of the
descendants of u's segment. Blocks of 128 by 128 that no query sees are skipped, and blocks that all see need no rule.

Axes: T packed tokens, H query heads, K key/value heads, D head size, B blocks of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

FLEX_BLOCK = 128
"""Queries, and keys, in a block of the mask."""


def block_mask(ends_T: Sequence[int], device: torch.device | str) -> BlockMask:
    """The mask of a row, made from its segments alone: nothing T by T wide is ever held.

    Args:
        ends_T: for each row, behind the last row of the descendants of its segment.
        device: of queries and keys.
    """
    size = len(ends_T)
    blocks = -(-size // FLEX_BLOCK)
    padded = torch.zeros(blocks * FLEX_BLOCK, dtype=torch.int32)
    padded[:size] = torch.tensor(ends_T, dtype=torch.int32)
    ends = padded[:size].to(device)
    by_block = padded.view(blocks, FLEX_BLOCK)
    first = torch.arange(blocks) * FLEX_BLOCK
    # A block of keys is seen by a block of queries where its longest segment reaches it; it is seen whole where its
    # shortest one passes it, and all its keys come before. Padding has the end 0: such a block is never whole.
    seen = (first[:, None] >= first[None, :]) & (first[:, None] < by_block.amax(1)[None, :])
    whole = (first[:, None] > first[None, :]) & (first[:, None] + FLEX_BLOCK <= by_block.amin(1)[None, :])

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[key])

    numbers, indices = _listed(seen & ~whole, device)
    whole_numbers, whole_indices = _listed(whole, device)
    return BlockMask.from_kv_blocks(
        numbers, indices, whole_numbers, whole_indices, BLOCK_SIZE=FLEX_BLOCK, mask_mod=rule, seq_lengths=(size, size)
    )


def _listed(chosen_BB: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries takes, and which, those first: [1, 1, B] and [1, 1, B, B]."""
    order = chosen_BB.int().argsort(dim=1, descending=True, stable=True)
    return (
        chosen_BB.sum(1, dtype=torch.int32)[None, None].to(device),
        order.to(torch.int32)[None, None].contiguous().to(device),
    )


def flex_tree_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, mask: BlockMask, compiled: bool = True) -> Tensor:
    """Attention of a packed row, differentiable: [T, H, D].

    Args:
        q_THD: queries.
        k_TKD: keys.
        v_TKD: values.
        mask: of the row.
        compiled: False: torch's own slow path, which holds all scores; for tests on a CPU.
    """
    attend: Any = _compiled() if compiled else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_TKD, v_TKD))
    out: Any = attend(q, k, v, block_mask=mask, enable_gqa=q_THD.shape[1] != k_TKD.shape[1])
    result: Tensor = out[0].transpose(0, 1)
    return result


@functools.cache
def _compiled() -> Callable[..., Any]:
    """One kernel for rows of every length."""
    return torch.compile(flex_attention, dynamic=True)
