"""All layers of a decoder over a paged cache as one native call, bit for bit the calls one by one.

A decode step makes some three hundred small calls, and Python takes milliseconds between them: more than the kernels
do when few sequences are left. There is no reference here: where `layer_stack` gives None, callers go layer by layer
through the operations of this package.

Axes: T rows, E hidden size, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.kernels.linear import PackedLinear
from rethink.kernels.native import ops
from rethink.kernels.paged import CacheRows, PagedCache


@dataclass(frozen=True, slots=True)
class StackShape:
    """Sizes that all layers share."""

    heads: int
    kv_heads: int
    size: int
    """D."""
    hidden: int
    intermediate: int
    epsilon: float
    """Of the norms."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer: norms in fp32, products laid out once, and the layer's pages."""

    input_norm: Tensor
    qkv: PackedLinear
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: PackedLinear
    post_norm: Tensor
    gate_up: PackedLinear
    down: PackedLinear
    cache: PagedCache


class LayerStack:
    """The call. It keeps the tensors it points into."""

    def __init__(self, shape: StackShape, layers: Sequence[LayerWeights]):
        self._layers = tuple(layers)
        self._stack = ops.Stack(
            ops.Shape(shape.heads, shape.kv_heads, shape.size, shape.size**-0.5),
            ops.Widths(len(layers), shape.hidden, shape.intermediate, shape.epsilon),
            (ops.LayerPointers * len(layers))(*(_pointers(w) for w in layers)),
            bf16=layers[0].cache.k.dtype == torch.bfloat16,
        )

    def __call__(self, x_TE: Tensor, cos_TD: Tensor, sin_TD: Tensor, rows: CacheRows) -> None:
        """The residual stream (fp32) through all layers, in place; keys and values go to the caches."""
        runs = ops.runs_of(rows.row_R, rows.length_R, rows.position_R, rows.table_R, rows.tables_SW)
        ops.layers(x_TE, self._stack, runs, cos_TD, sin_TD, rows.page_T, rows.place_T)


def layer_stack(shape: StackShape, layers: Sequence[LayerWeights]) -> LayerStack | None:
    """The layers as one call; None where a part of them has no native kernel."""
    products = [p for w in layers for p in (w.qkv, w.output, w.gate_up, w.down)]
    native = all(p.native is not None for p in products) and all(w.cache.native for w in layers)
    return LayerStack(shape, layers) if native and layers else None


def _pointers(w: LayerWeights) -> ops.LayerPointers:
    def packed(product: PackedLinear) -> Tensor | None:
        return None if product.native is None else product.native[0]

    def norm(weight: Tensor | None) -> Tensor | None:
        assert weight is None or (weight.dtype == torch.float32 and weight.is_contiguous())
        return weight

    return ops.layer_pointers(
        w.cache.k.dtype, input_norm=norm(w.input_norm), qkv=packed(w.qkv),
        qkv_bias=None if w.qkv.native is None else w.qkv.native[1],
        q_norm=norm(w.q_norm), k_norm=norm(w.k_norm), output=packed(w.output), post_norm=norm(w.post_norm),
        gate_up=packed(w.gate_up), down=packed(w.down), k_pages=w.cache.k, v_pages=w.cache.v,
    )  # fmt: skip
