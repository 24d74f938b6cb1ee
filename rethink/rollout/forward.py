"""The decoder over cached keys and values: pieces of prompts and decoded tokens go through the same pass.

Axes: T rows of a pass, E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from rethink.kernels.elementwise import rms_norm, swiglu_inference
from rethink.kernels.embedding import embed
from rethink.kernels.layers import LayerStack, LayerWeights, StackShape, layer_stack
from rethink.kernels.linear import PackedLinear
from rethink.kernels.paged import CacheRows, PagedCache, attend_cached
from rethink.kernels.trace import watched
from rethink.model.decoder.decoder import Decoder


class PackedWeights:
    """The decoder's matrices, laid out for few rows; made once per weight update."""

    def __init__(self, model: Decoder):
        self.layers = [
            (PackedLinear(w.qkv, w.qkv_bias), PackedLinear(w.output), PackedLinear(w.gate_up), PackedLinear(w.down))
            for w in model.layers
        ]
        self.head = PackedLinear(model.head)
        self._stack: tuple[Sequence[PagedCache], LayerStack] | None = None

    def stack(self, model: Decoder, caches: Sequence[PagedCache]) -> LayerStack | None:
        """All layers as one native call over these caches; None where there is none."""
        if self._stack is None or self._stack[0] is not caches:
            c = model.config
            shape = StackShape(c.num_heads, c.num_kv_heads, c.head_dim, c.hidden_size, c.intermediate_size,
                               c.rms_norm_eps)  # fmt: skip
            weights = [
                LayerWeights(w.input_norm, qkv, w.q_norm, w.k_norm, output, w.post_norm, gate_up, down, cache)
                for w, (qkv, output, gate_up, down), cache in zip(model.layers, self.layers, caches, strict=True)
            ]
            stack = layer_stack(shape, weights)
            if stack is None:
                return None
            self._stack = caches, stack
        return self._stack[1]


def hidden_rows(
    model: Decoder,
    packed: PackedWeights,
    tokens_T: Tensor,
    positions_T: Tensor,
    rows: CacheRows,
    caches: Sequence[PagedCache],
    wanted: Tensor | None = None,
) -> Tensor:
    """Final hidden states [T, E] of the rows, or of those at the indices `wanted`; keys and values go to the cache."""
    epsilon = model.config.rms_norm_eps
    cos, sin = model.rope(positions_T)
    x = embed(tokens_T, model.embedding, model.accurate)
    stack = None if watched() else packed.stack(model, caches)
    if stack is not None:
        stack(x, cos, sin, rows)
        return rms_norm(x if wanted is None else x[wanted], model.final_norm, epsilon, model.dtype)
    for layer, (qkv, output, gate_up, down), cache in zip(model.layers, packed.layers, caches, strict=True):
        h = rms_norm(x, layer.input_norm, epsilon, model.dtype)
        q, k, v = model.project_qkv(layer, qkv(h), cos, sin)
        x = output(attend_cached(q, k, v, cache, rows).reshape(len(x), -1), x)
        h = rms_norm(x, layer.post_norm, epsilon, model.dtype)
        x = down(swiglu_inference(gate_up(h)), x)
    return rms_norm(x if wanted is None else x[wanted], model.final_norm, epsilon, model.dtype)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt: tokens `start` and following of the prompt numbered `index`."""

    index: int
    start: int
    token_ids: Sequence[int]
    last: bool
    """Whether the prompt ends with this piece."""


def prefill_chunks(prompts: Sequence[tuple[int, int, Sequence[int]]], limit: int) -> Iterator[list[Chunk]]:
    """Cut (index, tokens already cached, prompt ids) into passes of at most `limit` tokens each, pieces in order."""
    passed: list[Chunk] = []
    room = limit
    for index, start, ids in prompts:
        while start < len(ids):
            left = len(ids) - start
            # What fits a pass of its own is not cut in two.
            if room < left and room < limit and (left <= limit or room == 0):
                yield passed
                passed, room = [], limit
            size = min(room, left)
            passed.append(Chunk(index, start, ids[start : start + size], start + size == len(ids)))
            start, room = start + size, room - size
    if passed:
        yield passed
