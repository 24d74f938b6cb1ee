"""One decoding step's attention: all samples of a group share their prompt's keys and values.

Each sequence of the batch sees its group's prefix, which is stored once, and its own cache; one softmax runs over both.
For the prefix the sequences are laid out as a grid of groups, so that one batched product per group serves all of its
samples; query heads that share a key/value head are folded into rows, so keys and values are never repeated.

Axes: B sequences, R groups, W samples of a group in the batch, H query heads, K key/value heads, D head size,
P prefix places, C cache places, S = P + C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class LayerCache:
    """Keys and values of one layer: the groups' prefixes and the sequences' own tokens."""

    prefix_k_RKPD: Tensor
    prefix_v_RKPD: Tensor
    own_k_BKCD: Tensor
    own_v_BKCD: Tensor


@dataclass(frozen=True, slots=True)
class Grid:
    """Where each sequence stands: its group's row, and its place among the group's running samples."""

    rows: int
    width: int
    row_B: Tensor
    place_B: Tensor


def decode_attention(q_BHD: Tensor, cache: LayerCache, grid: Grid, places: int, mask_BS: Tensor) -> Tensor:
    """Attention of one new token per sequence: [B, H, D].

    Args:
        q_BHD: rotated queries.
        cache: keys and values; the new tokens' are already in it.
        grid: the prefixes that the sequences belong to.
        places: own places looked at (at least the longest completion so far).
        mask_BS: 0 where a sequence may look, -inf elsewhere, over S = P + places.
    """
    batch, heads, size = q_BHD.shape
    kv_heads, prefix = cache.prefix_k_RKPD.shape[1:3]
    rows, width, fold = grid.rows, grid.width, heads // kv_heads
    q = (q_BHD / math.sqrt(size)).view(batch, kv_heads, fold, size)
    spread = q.new_zeros(rows, width, kv_heads, fold, size)
    spread[grid.row_B, grid.place_B] = q
    by_group = spread.permute(0, 2, 1, 3, 4).reshape(rows * kv_heads, width * fold, size)
    prefix_k = cache.prefix_k_RKPD[:rows].reshape(rows * kv_heads, prefix, size)
    prefix_v = cache.prefix_v_RKPD[:rows].reshape(rows * kv_heads, prefix, size)
    own_k = cache.own_k_BKCD[:batch, :, :places].reshape(batch * kv_heads, places, size)
    own_v = cache.own_v_BKCD[:batch, :, :places].reshape(batch * kv_heads, places, size)

    far = torch.bmm(by_group, prefix_k.transpose(1, 2)).view(rows, kv_heads, width, fold, prefix)
    far = far.permute(0, 2, 1, 3, 4)[grid.row_B, grid.place_B]
    near = torch.bmm(q.reshape(batch * kv_heads, fold, size), own_k.transpose(1, 2))
    scores = torch.cat((far, near.view(batch, kv_heads, fold, places)), dim=-1) + mask_BS[:, None, None, :]
    weights = torch.softmax(scores, dim=-1).to(q.dtype)

    out = torch.bmm(weights[..., prefix:].reshape(batch * kv_heads, fold, places), own_v)
    spread_weights = q.new_zeros(rows, width, kv_heads, fold, prefix)
    spread_weights[grid.row_B, grid.place_B] = weights[..., :prefix]
    far_out = torch.bmm(spread_weights.permute(0, 2, 1, 3, 4).reshape(rows * kv_heads, width * fold, prefix), prefix_v)
    far_out = far_out.view(rows, kv_heads, width, fold, size).permute(0, 2, 1, 3, 4)[grid.row_B, grid.place_B]
    return (far_out + out.view(batch, kv_heads, fold, size)).reshape(batch, heads, size)
