"""Computing prompts into the prefix caches, many in one pass, long ones in pieces.

Axes: T tokens of a pass, R group rows, K key/value heads, P prefix places, D head size, E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.attention import attend, merge
from rethink.kernels.decode import LayerCache
from rethink.kernels.elementwise import rms_norm, swiglu_inference
from rethink.model.decoder import Decoder


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt: tokens `start` and following, of the prompt whose prefix is kept in `row`."""

    row: int
    start: int
    token_ids: Sequence[int]
    last: bool
    """Whether the prompt ends with this piece."""


def prefill_chunks(prompts: Sequence[tuple[int, Sequence[int]]], limit: int) -> Iterator[list[Chunk]]:
    """Cut (row, prompt ids) into passes of at most `limit` tokens each; pieces of a prompt come in order."""
    passed: list[Chunk] = []
    room = limit
    for row, ids in prompts:
        start = 0
        while start < len(ids):
            # A prompt that fits a pass of its own is not cut in two.
            if room < len(ids) - start and (room < limit) and (len(ids) - start <= limit or room == 0):
                yield passed
                passed, room = [], limit
            size = min(room, len(ids) - start)
            passed.append(Chunk(row, start, ids[start : start + size], start + size == len(ids)))
            start, room = start + size, room - size
    if passed:
        yield passed


def prefill(model: Decoder, chunks: Sequence[Chunk], caches: Sequence[LayerCache]) -> dict[int, Tensor]:
    """Compute one pass and write its keys and values; returns the final hidden state [E] of each finished prompt."""
    config, device = model.config, model.device
    tokens = torch.tensor([t for c in chunks for t in c.token_ids], device=device)
    positions = torch.cat([torch.arange(c.start, c.start + len(c.token_ids), device=device) for c in chunks])
    sizes = [len(c.token_ids) for c in chunks]
    cos, sin = model.rope(positions)
    x = F.embedding(tokens, model.embedding).to(model.accurate)
    for layer, cache in zip(model.layers, caches, strict=True):
        h = rms_norm(x, layer.input_norm, config.rms_norm_eps, model.dtype)
        q, k, v = model.project_qkv(layer, F.linear(h, layer.qkv, layer.qkv_bias), cos, sin)
        parts = zip(chunks, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
        attended = torch.cat([_attend_chunk(cache, *part) for part in parts])
        x += F.linear(attended.reshape(len(tokens), -1), layer.output)
        h = rms_norm(x, layer.post_norm, config.rms_norm_eps, model.dtype)
        x += F.linear(swiglu_inference(F.linear(h, layer.gate_up)), layer.down)
    ends = torch.tensor(sizes).cumsum(0) - 1
    final = rms_norm(x[ends.to(device)], model.final_norm, config.rms_norm_eps, model.dtype)
    return {c.row: final[i] for i, c in enumerate(chunks) if c.last}


def _attend_chunk(cache: LayerCache, chunk: Chunk, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
    """Write a chunk's keys and values and attend: to itself causally, to the prompt's earlier pieces densely."""
    fold = q_THD.shape[1] // k_TKD.shape[1]
    end = chunk.start + len(chunk.token_ids)
    cache.prefix_k_RKPD[chunk.row, :, chunk.start : end] = k_TKD.transpose(0, 1)
    cache.prefix_v_RKPD[chunk.row, :, chunk.start : end] = v_TKD.transpose(0, 1)
    q = q_THD.transpose(0, 1)[None]

    def spread(kv_KSD: Tensor) -> Tensor:
        return kv_KSD.repeat_interleave(fold, dim=0)[None]

    out, lse = attend(q, spread(k_TKD.transpose(0, 1)), spread(v_TKD.transpose(0, 1)), True)
    if chunk.start:
        earlier_k = cache.prefix_k_RKPD[chunk.row, :, : chunk.start]
        earlier_v = cache.prefix_v_RKPD[chunk.row, :, : chunk.start]
        out, _ = merge(*attend(q, spread(earlier_k), spread(earlier_v), False), out, lse)
    return out[0].transpose(0, 1)
