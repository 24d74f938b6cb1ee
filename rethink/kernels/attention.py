"""Attention over trees of sequences, with no copy of a shared prefix and no padding across groups.

A packed row holds segments depth first: a prefix that several sequences share is stored once, before their suffixes. A
token attends to its own segment up to itself, and to all ancestors; so a segment's keys are seen by itself, causally,
and by all rows from its end to the end of its descendants: one range.

In plain torch: softmax over the union of two key sets splits into one softmax each, merged by their log-sum-exp; and
the backward pass of each part needs nothing but the merged output and the merged log-sum-exp. Natively
(`native/attention.cpp`): a block of sixteen keys at a time, in the order of their positions. On a GPU: `flex.py`.

Axes: T packed tokens, H query heads, K key/value heads, D head size, B batch, S queries, U keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rethink.kernels.native import ops

BLOCK_SCORES = 1 << 20
"""Scores that exist at once in the backward pass: few enough to stay in the last-level cache."""
BUCKET_FILL = 0.7
"""Segments share a padded causal call while the shortest is at least this share of the longest."""
BLOCK = 16
"""Keys in a block of the native kernels; blocks are aligned to positions in the sequence."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the row that belongs to one node of the tree."""

    start: int
    size: int
    end: int
    """Behind the last row of its descendants; start + size where it has none."""
    position: int
    """Of its first token in the sequence."""
    parent: int | None
    """Index of the segment it continues; an earlier one."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments attended in one causal call: index_BS into T, and which places are real (None: all)."""

    index_BS: Tensor
    valid_BS: Tensor | None


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The layout for the native kernels, int32: which rows a block of sixteen keys holds, and each segment's blocks."""

    source_N16: Tensor
    """Rows of the blocks' places; -1 for none. A segment that begins within a block repeats its parent's rows there."""
    tables_SW: Tensor
    rows_S: Tensor
    sizes_S: Tensor
    positions_S: Tensor
    indices_S: Tensor
    ranges_S3: Tensor
    """start, size, end."""


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """The attention pattern of a packed row. Segments cover it without a gap, in order."""

    segments: tuple[Segment, ...]
    buckets: tuple[Bucket, ...]
    plan: BlockPlan = field(repr=False)
    mask: Any = field(default=None, repr=False)
    """The `BlockMask` of FlexAttention, on a GPU; it takes the place of buckets and plan."""


def tree_layout(segments: Sequence[Segment], device: torch.device | str = "cpu") -> TreeLayout:
    """Everything that the kernels need to know of segments (those without tokens leave no trace)."""
    if torch.device(device).type == "cuda":
        from rethink.kernels.flex import block_mask  # it imports torch's compiler

        return TreeLayout(tuple(segments), (), _plan(()), block_mask(ends_of(segments), device))
    return TreeLayout(tuple(segments), _buckets(segments), _plan(segments))


def ends_of(segments: Sequence[Segment]) -> list[int]:
    """For each row, behind the last row of the descendants of its segment: the last query that sees its key."""
    return [segment.end for segment in segments for _ in range(segment.size)]


def _buckets(segments: Sequence[Segment]) -> tuple[Bucket, ...]:
    """Segments of similar length, padded to the longest of their bucket for one attention call."""
    buckets: list[Bucket] = []
    rest = sorted((s for s in segments if s.size), key=lambda s: (-s.size, s.start))
    while rest:
        longest = rest[0].size
        taken = [s for s in rest if s.size >= BUCKET_FILL * longest]
        rest = rest[len(taken) :]
        offsets = torch.arange(longest)
        starts = torch.tensor([s.start for s in taken])
        sizes = torch.tensor([s.size for s in taken])
        valid = offsets[None, :] < sizes[:, None]
        # Padding repeats the segment's last token: it comes after every real query, so causality hides it.
        index = starts[:, None] + torch.minimum(offsets[None, :], sizes[:, None] - 1)
        buckets.append(Bucket(index, None if bool(valid.all()) else valid))
    return tuple(buckets)


def _plan(segments: Sequence[Segment]) -> BlockPlan:
    blocks: list[list[int]] = []
    tables: list[list[int]] = []
    for segment in segments:
        table = [] if segment.parent is None else tables[segment.parent][: segment.position // BLOCK]
        # The block that the segment begins in, if its parent began it, is copied: both continue it differently.
        before = segment.position % BLOCK
        open_block = list(blocks[tables[segment.parent][segment.position // BLOCK]][:before]) if before else []  # type: ignore[index]
        rows = [*open_block, *range(segment.start, segment.start + segment.size)]
        own = [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
        tables.append([*table, *range(len(blocks), len(blocks) + len(own))])
        blocks += own
    real = [(s, i) for i, s in enumerate(segments) if s.size]
    width = max((len(t) for t in tables), default=0)

    def numbers(values: Sequence[Any], *shape: int) -> Tensor:
        return torch.tensor(values, dtype=torch.int32).reshape(shape or (len(values),))

    return BlockPlan(
        numbers([b + [-1] * (BLOCK - len(b)) for b in blocks], len(blocks), BLOCK),
        numbers([t + [0] * (width - len(t)) for t in tables], len(tables), width),
        numbers([s.start for s, _ in real]),
        numbers([s.size for s, _ in real]),
        numbers([s.position for s, _ in real]),
        numbers([i for _, i in real]),
        numbers([[s.start, s.size, s.end] for s, _ in real], len(real), 3),
    )


def attend(q_BHSD: Tensor, k_BHUD: Tensor, v_BHUD: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention output [B,H,S,D] and its log-sum-exp [B,H,S] (fp32 or better), on a CPU. Scale 1/sqrt(D)."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_BHSD, k_BHUD, v_BHUD, 0.0, causal)
    return out, lse


def attend_backward(
    grad_BHSD: Tensor, q: Tensor, k: Tensor, v: Tensor, out_BHSD: Tensor, lse_BHS: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v; `out` and `lse` may be those of a larger softmax that this part was merged into.

    Plain matrix products over blocks of queries: on CPU several times faster than torch's own backward kernel, which
    splits its work over heads alone. Scores are recomputed in fp32, the products with gradients in the compute dtype.
    """
    size, queries = q.shape[-1], q.shape[2]
    accurate = torch.promote_types(q.dtype, torch.float32)
    q_scaled, k_accurate = q.to(accurate) / math.sqrt(size), k.to(accurate).transpose(-1, -2)
    delta_BHS = (grad_BHSD.to(accurate) * out_BHSD).sum(-1)
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format)
    grad_k, grad_v = torch.zeros_like(k, dtype=accurate), torch.zeros_like(v, dtype=accurate)
    step = max(16, BLOCK_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    for first in range(0, queries, step):
        rows = slice(first, min(first + step, queries))
        keys = slice(0, rows.stop if causal else k.shape[2])
        weights = torch.matmul(q_scaled[:, :, rows], k_accurate[..., keys])
        weights.sub_(lse_BHS[:, :, rows, None]).exp_()
        if causal:  # query i of the block is at position first + i
            weights.tril_(first)
        grad = grad_BHSD[:, :, rows]
        grad_v[:, :, keys] += torch.matmul(weights.to(q.dtype).transpose(-1, -2), grad)
        inner = torch.matmul(grad, v[:, :, keys].transpose(-1, -2)).to(accurate)
        scores = inner.sub_(delta_BHS[:, :, rows, None]).mul_(weights).to(q.dtype)
        grad_q[:, :, rows] = torch.matmul(scores, k[:, :, keys]) / math.sqrt(size)
        grad_k[:, :, keys] += torch.matmul(scores.transpose(-1, -2), q_scaled[:, :, rows].to(q.dtype))
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Join two attention results over disjoint keys: out [..., D], lse [...]."""
    lse = torch.logaddexp(lse_a, lse_b)
    out = torch.exp(lse_a - lse)[..., None] * out_a + torch.exp(lse_b - lse)[..., None] * out_b
    return out.to(out_a.dtype), lse


def _has_native(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the native kernels accept these: heads are adjacent, rows need not be; the head size is a multiple of
    16.
    """
    size = q.shape[2]
    return ops.usable(q) and size % BLOCK == 0 and all(x.stride()[1:] == (size, 1) for x in (q, k, v))


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: TreeLayout) -> Tensor:
        ctx.native = _has_native(q_THD, k_TKD, v_TKD)
        compute = _native_forward if ctx.native else _tree_forward
        out_THD, lse_TH = compute(q_THD, k_TKD, v_TKD, layout)
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, lse_TH)
        ctx.layout = layout
        return out_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        compute = _native_backward if ctx.native else _tree_backward
        return *compute(grads[0].contiguous(), q, k, v, out, lse, ctx.layout), None


def tree_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: TreeLayout) -> Tensor:
    """Attention of a packed row: each token over its ancestors and itself. Returns [T,H,D]."""
    if layout.mask is not None:
        from rethink.kernels.flex import flex_tree_attention

        return flex_tree_attention(q_THD, k_TKD, v_TKD, layout.mask)
    result: Tensor = _TreeAttention.apply(q_THD, k_TKD, v_TKD, layout)  # type: ignore[no-untyped-call]
    return result


def _spread(kv_BSKD: Tensor, heads: int) -> Tensor:
    """Keys or values [B,S,K,D] repeated for the query heads: [B,H,S,D]."""
    return kv_BSKD.repeat_interleave(heads // kv_BSKD.shape[2], dim=2).transpose(1, 2)


def _gather(grad_BHSD: Tensor, kv_heads: int) -> Tensor:
    """Sum a gradient over the query heads that share a key/value head: [B,S,K,D]."""
    b, h, s, d = grad_BHSD.shape
    return grad_BHSD.view(b, kv_heads, h // kv_heads, s, d).sum(2).transpose(1, 2)


def _fold(q_SHD: Tensor, kv_heads: int) -> Tensor:
    """Queries that share a key/value head become rows: [1,K,S*(H/K),D]. Without causality order does not matter."""
    s, h, d = q_SHD.shape
    return q_SHD.view(s, kv_heads, h // kv_heads, d).permute(1, 0, 2, 3).reshape(1, kv_heads, s * (h // kv_heads), d)


def _unfold(folded: Tensor, tokens: int, heads: int) -> Tensor:
    """Inverse of `_fold`, for outputs [1,K,R,D] and log-sum-exps [1,K,R,1]: [S,H,D]."""
    _, kv_heads, _, d = folded.shape
    return folded.view(kv_heads, tokens, heads // kv_heads, d).permute(1, 0, 2, 3).reshape(tokens, heads, d)


def _native_runs(plan: BlockPlan) -> ops.Runs:
    return ops.runs_of(plan.rows_S, plan.sizes_S, plan.positions_S, plan.indices_S, plan.tables_SW)


def _native_forward(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout) -> tuple[Tensor, Tensor]:
    """Also, base 2, the log-sum-exps [T, H] that `_native_backward` takes."""
    source = layout.plan.source_N16
    k_blocks = torch.empty(len(source), k.shape[1], BLOCK * k.shape[2], dtype=k.dtype)
    v_blocks = torch.empty_like(k_blocks)
    ops.gather_blocks(k, source, k_blocks, None)
    ops.gather_blocks(v, source, None, v_blocks)
    out, lse = ops.attention_forward(q, k.shape[1], _native_runs(layout.plan), k_blocks, v_blocks, with_lse=True)
    assert lse is not None
    return out, lse


def _native_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: TreeLayout
) -> tuple[Tensor, Tensor, Tensor]:
    plan = layout.plan
    grads = (
        torch.empty(q.shape, dtype=q.dtype),
        torch.empty(k.shape, dtype=k.dtype),
        torch.empty(v.shape, dtype=v.dtype),
    )
    runs = _native_runs(plan)
    ops.attention_backward((q, k, v), (out, lse), grad, runs, plan.ranges_S3, plan.source_N16, grads)
    return grads


def _tree_forward(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout) -> tuple[Tensor, Tensor]:
    heads, kv_heads = q.shape[1], k.shape[1]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = torch.empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    for bucket in layout.buckets:
        own, own_lse = attend(
            q[bucket.index_BS].transpose(1, 2),
            _spread(k[bucket.index_BS], heads),
            _spread(v[bucket.index_BS], heads),
            True,
        )
        real = slice(None) if bucket.valid_BS is None else bucket.valid_BS
        rows = bucket.index_BS[real].reshape(-1)
        out[rows] = own.transpose(1, 2)[real].reshape(-1, heads, q.shape[2])
        lse[rows] = own_lse.transpose(1, 2)[real].reshape(-1, heads)
    for p, c in _shared(layout):
        far, far_lse = attend(_fold(q[c], kv_heads), k[p][None].transpose(1, 2), v[p][None].transpose(1, 2), False)
        rows = c.stop - c.start
        far, far_lse = _unfold(far, rows, heads), _unfold(far_lse[..., None], rows, heads)[..., 0]
        out[c], lse[c] = merge(far, far_lse, out[c], lse[c])
    return out, lse


def _shared(layout: TreeLayout) -> list[tuple[slice, slice]]:
    """Segments with descendants: their rows, and their descendants'."""
    found = [s for s in layout.segments if s.size and s.end > s.start + s.size]
    return [(slice(s.start, s.start + s.size), slice(s.start + s.size, s.end)) for s in found]


def _tree_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: TreeLayout
) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads = q.shape[1], k.shape[1]
    grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for bucket in layout.buckets:
        index, real = bucket.index_BS, slice(None) if bucket.valid_BS is None else bucket.valid_BS
        upstream = grad[index]
        if bucket.valid_BS is not None:
            upstream = upstream.masked_fill(~bucket.valid_BS[..., None, None], 0)
        part = attend_backward(
            upstream.transpose(1, 2),
            q[index].transpose(1, 2),
            _spread(k[index], heads),
            _spread(v[index], heads),
            out[index].transpose(1, 2),
            lse[index].transpose(1, 2),
            True,
        )
        rows = index[real].reshape(-1)
        grad_q[rows] = part[0].transpose(1, 2)[real].reshape(-1, heads, q.shape[2])
        grad_k[rows] = _gather(part[1], kv_heads)[real].reshape(-1, kv_heads, q.shape[2])
        grad_v[rows] = _gather(part[2], kv_heads)[real].reshape(-1, kv_heads, q.shape[2])
    for p, c in _shared(layout):
        far = attend_backward(
            _fold(grad[c], kv_heads),
            _fold(q[c], kv_heads),
            k[p][None].transpose(1, 2),
            v[p][None].transpose(1, 2),
            _fold(out[c], kv_heads),
            _fold(lse[c][..., None], kv_heads)[..., 0],
            False,
        )
        grad_q[c] += _unfold(far[0], c.stop - c.start, heads)
        grad_k[p] += far[1][0].transpose(0, 1)
        grad_v[p] += far[2][0].transpose(0, 1)
    return grad_q, grad_k, grad_v
