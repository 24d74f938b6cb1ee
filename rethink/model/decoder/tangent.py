"""The exact derivative of a decoder's hidden states along a direction of its weights (forward mode).

    d h = J v: every operation of the forward pass, beside its own linearisation, without a graph

Plain torch, all in the type of the weights: it serves products with a Fisher matrix, for which the kernels' backward
passes, which cannot be differentiated again, give J^T u alone.

Axes: T packed tokens, E hidden size, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.attention import TreeLayout, ends_of
from rethink.kernels.elementwise import rotate
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedBatch

Pair = tuple[Tensor, Tensor]
"""A value and its derivative."""


def hidden_along(decoder: Decoder, batch: PackedBatch, direction: Mapping[str, Tensor]) -> Pair:
    """Final hidden states [T, E] and their derivative along a direction.

    Args:
        decoder: in fp32 or fp64.
        batch: a packed row.
        direction: a tensor for each of the decoder's parameters, by name.
    """
    c, rope = decoder.config, decoder.rope(batch.positions_T)
    sees_TT = visible(batch.layout, batch.tokens_T.device)
    with torch.no_grad():
        x = decoder.embedding[batch.tokens_T], direction["embedding"][batch.tokens_T]
        for number, layer in enumerate(decoder.layers):

            def weight(name: str, layer: object = layer, number: int = number) -> Pair:
                return getattr(layer, name), direction[f"layers.{number}.{name}"]

            h = _norm(x, weight("input_norm"), c.rms_norm_eps)
            fused = _linear(h, weight("qkv"))
            if layer.qkv_bias is not None:
                fused = _add(fused, weight("qkv_bias"))
            norms = (weight("q_norm"), weight("k_norm")) if layer.q_norm is not None else None
            x = _add(x, _linear(_attended(c, fused, norms, rope, sees_TT), weight("output")))
            h = _norm(x, weight("post_norm"), c.rms_norm_eps)
            x = _add(x, _linear(_swiglu(_linear(h, weight("gate_up"))), weight("down")))
        return _norm(x, (decoder.final_norm, direction["final_norm"]), c.rms_norm_eps)


def visible(layout: TreeLayout, device: torch.device) -> Tensor:
    """[T, T] bool: whether a query (row) sees a key (column): one that is not behind it, and not of another branch."""
    ends = torch.tensor(ends_of(layout.segments), device=device)
    rows = torch.arange(len(ends), device=device)
    return (rows[:, None] >= rows[None, :]) & (rows[:, None] < ends[None, :])


def _add(one: Pair, two: Pair) -> Pair:
    return one[0] + two[0], one[1] + two[1]


def _linear(x: Pair, weight: Pair) -> Pair:
    return F.linear(x[0], weight[0]), F.linear(x[1], weight[0]) + F.linear(x[0], weight[1])


def _norm(x: Pair, weight: Pair, epsilon: float) -> Pair:
    """RMSNorm over the last axis."""
    scale = (x[0].square().mean(-1, keepdim=True) + epsilon).rsqrt()
    unit = x[0] * scale
    change = scale * (x[1] - unit * (unit * x[1]).mean(-1, keepdim=True))
    return unit * weight[0], change * weight[0] + unit * weight[1]


def _swiglu(fused: Pair) -> Pair:
    (gate, up), (gate_change, up_change) = (part.chunk(2, -1) for part in fused)
    sigmoid = gate.sigmoid()
    silu, slope = gate * sigmoid, sigmoid * (1 + gate * (1 - sigmoid))
    return silu * up, slope * gate_change * up + silu * up_change


def _attended(
    c: DecoderConfig, fused: Pair, norms: tuple[Pair, Pair] | None, rope: tuple[Tensor, Tensor], sees_TT: Tensor
) -> Pair:
    """Attention [T, HD] from the fused projection, one query head at a time."""
    sizes = [c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim]
    q, k, v = zip(*(part.split(sizes, -1) for part in fused), strict=True)
    q, k, v = ((a.view(-1, n, c.head_dim), b.view(-1, n, c.head_dim))
               for (a, b), n in ((q, c.num_heads), (k, c.num_kv_heads), (v, c.num_kv_heads)))  # fmt: skip
    if norms is not None:
        q, k = (_norm(x, norm, c.rms_norm_eps) for x, norm in zip((q, k), norms, strict=True))
    q, k = ((rotate(x[0].contiguous(), *rope), rotate(x[1].contiguous(), *rope)) for x in (q, k))
    shared, heads = c.num_heads // c.num_kv_heads, []
    for head in range(c.num_heads):
        own, other = (slice(None), head), (slice(None), head // shared)
        heads.append(_one_head((q[0][own], q[1][own]), (k[0][other], k[1][other]), (v[0][other], v[1][other]), sees_TT))
    return torch.cat([value for value, _ in heads], -1), torch.cat([change for _, change in heads], -1)


def _one_head(q: Pair, k: Pair, v: Pair, sees_TT: Tensor) -> Pair:
    scale = q[0].shape[-1] ** -0.5
    scores = (q[0] @ k[0].t() * scale).masked_fill(~sees_TT, -torch.inf)
    change = (q[1] @ k[0].t() + q[0] @ k[1].t()) * scale
    shares = scores.softmax(-1)
    moved = shares * (change - (shares * change).sum(-1, keepdim=True))
    return shares @ v[0], moved @ v[0] + shares @ v[1]
