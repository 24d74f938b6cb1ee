"""Attention over shared prefixes, with no copy of the prefix and no padding across groups.

Softmax over the union of two key sets splits into one softmax each, merged by their log-sum-exp; and the backward pass
of each part needs nothing but the merged output and the merged log-sum-exp. So a completion's attention is two calls
(to its prompt, dense; to itself, causal), in both directions.

Axes: T packed tokens, H query heads, K key/value heads, D head size, B batch, S queries, U keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_SCORES = 1 << 20
"""Scores that exist at once in the backward pass: few enough to stay in the last-level cache."""


@dataclass(frozen=True, slots=True)
class PrefixSpan:
    """Where a group lies in the row: its prompt, then all of its completions' tokens."""

    prompt_start: int
    prompt_size: int
    completions_start: int
    completions_size: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """Completions attended in one causal call: index_BS into T, and which places are real (None: all)."""

    index_BS: Tensor
    valid_BS: Tensor | None


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """The attention pattern of a packed row."""

    prefixes: tuple[PrefixSpan, ...]
    buckets: tuple[Bucket, ...]


def attend(q_BHSD: Tensor, k_BHUD: Tensor, v_BHUD: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention output [B,H,S,D] and its log-sum-exp [B,H,S] (fp32 or better). Scale 1/sqrt(D)."""
    if q_BHSD.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_BHSD, k_BHUD, v_BHUD, 0.0, causal)
        return out, lse
    scores = _scores(q_BHSD, k_BHUD, causal)
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse[..., None]).to(v_BHUD.dtype)
    return weights @ v_BHUD, lse


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
        if causal:  # query i of the block stands at first + i
            weights.tril_(first)
        grad = grad_BHSD[:, :, rows]
        grad_v[:, :, keys] += torch.matmul(weights.to(q.dtype).transpose(-1, -2), grad)
        inner = torch.matmul(grad, v[:, :, keys].transpose(-1, -2)).to(accurate)
        scores = inner.sub_(delta_BHS[:, :, rows, None]).mul_(weights).to(q.dtype)
        grad_q[:, :, rows] = torch.matmul(scores, k[:, :, keys]) / math.sqrt(size)
        grad_k[:, :, keys] += torch.matmul(scores.transpose(-1, -2), q_scaled[:, :, rows].to(q.dtype))
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _scores(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    accurate = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(accurate) @ k.to(accurate).transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Join two attention results over disjoint keys: out [..., D], lse [...]."""
    lse = torch.logaddexp(lse_a, lse_b)
    out = torch.exp(lse_a - lse)[..., None] * out_a + torch.exp(lse_b - lse)[..., None] * out_b
    return out.to(out_a.dtype), lse


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: TreeLayout) -> Tensor:
        out_THD, lse_TH = _tree_forward(q_THD, k_TKD, v_TKD, layout)
        ctx.save_for_backward(q_THD, k_TKD, v_TKD, out_THD, lse_TH)
        ctx.layout = layout
        return out_THD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        return *_tree_backward(grads[0], q, k, v, out, lse, ctx.layout), None


def tree_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: TreeLayout) -> Tensor:
    """Attention of a packed row: prompts causal, completions over their prompt and themselves. Returns [T,H,D]."""
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


def _tree_forward(q: Tensor, k: Tensor, v: Tensor, layout: TreeLayout) -> tuple[Tensor, Tensor]:
    heads, kv_heads = q.shape[1], k.shape[1]
    out = torch.empty_like(q)
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
    for span in layout.prefixes:
        p = slice(span.prompt_start, span.prompt_start + span.prompt_size)
        prompt, prompt_lse = attend(
            q[p][None].transpose(1, 2), _spread(k[p][None], heads), _spread(v[p][None], heads), True
        )
        out[p], lse[p] = prompt[0].transpose(0, 1), prompt_lse[0].transpose(0, 1)
        if not span.completions_size:
            continue
        c = slice(span.completions_start, span.completions_start + span.completions_size)
        far, far_lse = attend(_fold(q[c], kv_heads), k[p][None].transpose(1, 2), v[p][None].transpose(1, 2), False)
        far = _unfold(far, span.completions_size, heads)
        far_lse = _unfold(far_lse[..., None], span.completions_size, heads)[..., 0]
        out[c], lse[c] = merge(far, far_lse, out[c], lse[c])
    return out, lse


def _tree_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: TreeLayout
) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads = q.shape[1], k.shape[1]
    grad = grad.contiguous()
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
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
    for span in layout.prefixes:
        p = slice(span.prompt_start, span.prompt_start + span.prompt_size)
        part = attend_backward(
            grad[p][None].transpose(1, 2),
            q[p][None].transpose(1, 2),
            _spread(k[p][None], heads),
            _spread(v[p][None], heads),
            out[p][None].transpose(1, 2),
            lse[p][None].transpose(1, 2),
            True,
        )
        grad_q[p] = part[0][0].transpose(0, 1)
        grad_k[p], grad_v[p] = _gather(part[1], kv_heads)[0], _gather(part[2], kv_heads)[0]
        if not span.completions_size:
            continue
        c = slice(span.completions_start, span.completions_start + span.completions_size)
        far = attend_backward(
            _fold(grad[c], kv_heads),
            _fold(q[c], kv_heads),
            k[p][None].transpose(1, 2),
            v[p][None].transpose(1, 2),
            _fold(out[c], kv_heads),
            _fold(lse[c][..., None], kv_heads)[..., 0],
            False,
        )
        grad_q[c] += _unfold(far[0], span.completions_size, heads)
        grad_k[p] += far[1][0].transpose(0, 1)
        grad_v[p] += far[2][0].transpose(0, 1)
    return grad_q, grad_k, grad_v
