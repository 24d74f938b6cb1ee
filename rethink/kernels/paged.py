"""Keys and values of running sequences in pages of sixteen positions, and attention over them.

A page holds positions 16 b to 16 b + 15 of a sequence, so sequences with a common prefix share pages, and what is
written for one token never moves. One call serves both prompts in pieces and single decoded tokens: a run is
consecutive rows of one sequence, its table names the sequence's pages.

On CPU the pages have the layout of `native/attention.cpp`, and each score and sum is computed as in training.

Axes: T rows, H query heads, K key/value heads, D head size, R runs, S sequences, W pages of the longest, G pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rethink.kernels.attention import BLOCK
from rethink.kernels.native import ops
from rethink.kernels.trace import traced

PAGE = BLOCK
"""Positions in a page."""

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PagedCache:
    """One layer's pages: [G, K, 16, D] in plain torch; natively 16 D values a head in the kernels' own order."""

    k: Tensor
    v: Tensor
    size: int
    """D."""
    native: bool


@dataclass(frozen=True, slots=True)
class CacheRows:
    """Positions of the rows of one pass: all int32 on the CPU."""

    row_R: Tensor
    length_R: Tensor
    position_R: Tensor
    table_R: Tensor
    """Which row of `tables_SW` is the run's."""
    tables_SW: Tensor
    page_T: Tensor
    """Where each row's own key and value go: page and place."""
    place_T: Tensor


def cache_rows(rows: Ints, lengths: Ints, positions: Ints, tables_R: Ints, tables_SW: Ints) -> CacheRows:
    """The rows of runs given as int32 arrays (`rows` consecutive from 0); see `CacheRows`."""
    offsets = np.arange(int(lengths.sum()), dtype=np.int32) - np.repeat(rows, lengths)
    absolute = np.repeat(positions, lengths) + offsets
    pages = tables_SW[np.repeat(tables_R, lengths), absolute // PAGE]
    arrays = (rows, lengths, positions, tables_R, tables_SW, pages, absolute % PAGE)
    return CacheRows(*(torch.from_numpy(np.ascontiguousarray(a, dtype=np.int32)) for a in arrays))


def new_cache(pages: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device | str) -> PagedCache:
    """Pages that hold zeros."""
    native = size % BLOCK == 0 and ops.usable(torch.empty(0, dtype=dtype, device=device))
    shape = (pages, kv_heads, PAGE, size)
    k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
    return PagedCache(k, v, size, native)


def copy_page(cache: PagedCache, source: int, target: int) -> None:
    """One page's content into another: where sequences that shared it part."""
    cache.k[target].copy_(cache.k[source])
    cache.v[target].copy_(cache.v[source])


@traced("attention")
def attend_cached(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, cache: PagedCache, rows: CacheRows) -> Tensor:
    """Write the rows' keys and values, then attend: each row to all positions of its sequence up to its own. [T,H,D]"""
    if cache.native:
        ops.cache_write(k_TKD, v_TKD, rows.page_T, rows.place_T, cache.k, cache.v)
        runs = ops.runs_of(rows.row_R, rows.length_R, rows.position_R, rows.table_R, rows.tables_SW)
        return ops.attention_forward(q_THD, k_TKD.shape[1], runs, cache.k, cache.v, with_lse=False)[0]
    pages, places = rows.page_T.long().to(q_THD.device), rows.place_T.long().to(q_THD.device)
    cache.k[pages, :, places] = k_TKD
    cache.v[pages, :, places] = v_TKD
    return _attend_pages(q_THD, cache, rows)


def _attend_pages(q_THD: Tensor, cache: PagedCache, rows: CacheRows) -> Tensor:
    """Runs of equal length in one padded call each: all decoded tokens together, a long prompt's piece alone."""
    out = torch.empty_like(q_THD, memory_format=torch.contiguous_format)
    for length in rows.length_R.unique().tolist():
        members = (rows.length_R == length).nonzero()[:, 0]
        for part in members.split(max(1, 256 // length)):
            _attend_runs(q_THD, cache, rows, part, length, out)
    return out


def _attend_runs(q: Tensor, cache: PagedCache, rows: CacheRows, part: Tensor, length: int, out: Tensor) -> None:
    device = q.device
    first, position = rows.row_R[part].long(), rows.position_R[part].long()
    number = (int(position.max()) + length - 1) // PAGE + 1
    tables = rows.tables_SW[rows.table_R[part].long(), :number].long().to(device)
    index = (first[:, None] + torch.arange(length)).to(device)
    b, heads, size = len(part), q.shape[1], q.shape[2]

    def keys(pages_GKPD: Tensor) -> Tensor:
        picked = pages_GKPD[tables].permute(0, 2, 1, 3, 4).reshape(b, -1, number * PAGE, size)
        return picked.repeat_interleave(heads // picked.shape[1], dim=1)

    last = (position[:, None] + torch.arange(length)).to(device)
    visible = torch.arange(number * PAGE, device=device) <= last[..., None]
    result = F.scaled_dot_product_attention(
        q[index].transpose(1, 2), keys(cache.k), keys(cache.v), attn_mask=visible[:, None]
    )
    out[index] = result.transpose(1, 2)
