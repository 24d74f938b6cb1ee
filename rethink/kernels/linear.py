"""Matrix products with weights: `x @ W.T + bias + residual`, differentiable; and weights laid out once for decoding.

The native product (bf16 and fp32 on CPU) keeps its sums in fp32 to the end, adds bias and residual there, and computes
each row in one fixed order however many there are, so that a token's values are the same in training and in decoding.
The gradient of a weight goes straight into the fp32 buffer that the optimizer hangs on it (`main_grad`).

Axes: T rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.native import ops

ROWS_HINT = 64
"""Batch size that oneDNN's layout is chosen for; every batch size stays correct."""


def main_grad(weight: Tensor) -> Tensor | None:
    """The fp32 gradient that the optimizer keeps for a weight, where it has hung one on it."""
    found: Tensor | None = getattr(weight, "main_grad", None)
    return found


def linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, residual_TO: Tensor | None = None) -> Tensor:
    """x W^T (+ bias), in the type of `x`; with a residual, residual + x W^T in the residual's type. Differentiable."""
    served = ops.usable(x_TI) and x_TI.dtype == weight_OI.dtype and x_TI.is_contiguous()
    if served and (residual_TO is None or residual_TO.dtype == torch.float32):
        result: Tensor = _Linear.apply(x_TI, weight_OI, bias_O, residual_TO)  # type: ignore[no-untyped-call]
        return result
    product = F.linear(x_TI, weight_OI, bias_O)
    return product if residual_TO is None else residual_TO + product


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(x)
        # Weights are leaves that outlive the graph; saved as tensors they would be versioned against the optimizer.
        ctx.weight, ctx.bias, ctx.has_residual = weight, bias, residual is not None
        return _forward(x, ops.pack_now(weight, transposed=True), weight.shape[0], bias, residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        grad, weight, bias = grads[0].contiguous(), ctx.weight, ctx.bias
        grad_x = torch.empty_like(x)
        ops.product(grad, ops.pack_now(weight, transposed=False), grad_x, _kind(grad_x.dtype))
        grad_weight = add_weight_gradient(weight, grad, x) if ctx.needs_input_grad[1] else None
        grad_bias = None
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias, kept = grad.sum(0, dtype=torch.float32), main_grad(bias)
            if kept is not None:
                kept.add_(grad_bias)
                grad_bias = None
        return grad_x, grad_weight, grad_bias, grad if ctx.has_residual else None


def add_weight_gradient(weight: Tensor, grad_TO: Tensor, x_TI: Tensor) -> Tensor | None:
    """grad^T x: added to the weight's `main_grad`, or returned (fp32) where it has none. Native products only."""
    kept = main_grad(weight)
    out = torch.zeros(weight.shape) if kept is None else kept
    ops.product(grad_TO, ops.pack_now(x_TI, transposed=False), out, ops.OUT_ADD, transposed=True)
    return out if kept is None else None


def _forward(x: Tensor, packed: Tensor, outputs: int, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    out = torch.empty(x.shape[0], outputs, dtype=x.dtype if residual is None else torch.float32)
    return ops.product(x, packed, out, _kind(out.dtype), bias=bias, residual=residual)


def _kind(dtype: torch.dtype) -> int:
    return ops.OUT_BF16 if dtype == torch.bfloat16 else ops.OUT_FP32


@functools.cache
def _reorders_bf16() -> bool:
    """Whether oneDNN lays out bf16 weights on this processor: without AVX-512 or AVX-NE-CONVERT it refuses."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(1, 1, dtype=torch.bfloat16), ROWS_HINT)
    except RuntimeError:
        return False
    return True


class PackedLinear:
    """`linear` without a graph, the weight laid out once.

    On CPU natively, or, bf16, reordered by oneDNN (bit-equal to `F.linear`); elsewhere `F.linear` itself.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self._bias = None if bias is None else bias.detach()
        self._weight = weight = weight.detach()
        self._packed: Tensor | None = None
        self._native = ops.usable(weight)
        if self._native:
            self._packed = ops.pack_weight(weight, transposed=True)
        elif weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _reorders_bf16():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)

    @property
    def native(self) -> tuple[Tensor, Tensor | None] | None:
        """The weight in the native layout, and the bias; None where the native product does not serve it."""
        return (self._packed, self._bias) if self._native and self._packed is not None else None

    def __call__(self, x_TI: Tensor, residual_TO: Tensor | None = None) -> Tensor:
        """[T, I] -> [T, O]."""
        if self._native and self._packed is not None:
            return _forward(x_TI.contiguous(), self._packed, self._weight.shape[0], self._bias, residual_TO)
        if self._packed is None:
            product = F.linear(x_TI, self._weight, self._bias)
        else:
            product = torch.ops.mkldnn._linear_pointwise(x_TI, self._packed, self._bias, "none", [], "")
        return product if residual_TO is None else residual_TO + product

    def exact(self, x_TI: Tensor) -> Tensor:
        """As the call, with the sums as they are: in fp32 where the native product has them (logits)."""
        if not self._native or self._packed is None:
            return self(x_TI)
        outputs = self._weight.shape[0]
        out = torch.empty(x_TI.shape[0], outputs)
        return ops.product(x_TI.contiguous(), self._packed, out, ops.OUT_FP32, bias=self._bias)
