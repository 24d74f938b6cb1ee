"""RMSNorm, rotary embedding and SwiGLU: the small operations between the matrix products.

Each is a plain torch computation, and a native one (`native/elementwise.cpp`) where there is one for the tensor.

Axes: T tokens, E hidden size, H heads, D head size, I intermediate size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.native import ops
from rethink.kernels.trace import traced

ROWS_IN_CACHE = 256
"""Rows handled at once where several passes touch them: small enough to stay in a core's cache between passes."""


def rms_norm(x_TE: Tensor, weight_E: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis (arXiv 1910.07467), differentiable.

    Computed in the precision of `x` (fp32 or better), returned in `dtype`.
    """
    result: Tensor = _RMSNorm.apply(x_TE, weight_E, epsilon, dtype)  # type: ignore[no-untyped-call]
    return result


class _RMSNorm(torch.autograd.Function):
    """Keeps its input (the residual stream, which lives anyway) and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        exact = x.dtype == weight.dtype == torch.float32  # as the kernel reads them
        if x.dim() == 2 and exact and x.is_contiguous() and _is_native(x, dtype):
            out, scale = ops.rms_norm(x, weight, epsilon, dtype)
            ctx.save_for_backward(x, weight, scale)
            return out
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        for part in row_blocks(x):
            torch.mul(x[part] * scale[part], weight, out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad_weight, exact = torch.zeros_like(weight), x.dtype == weight.dtype == torch.float32
        if x.dim() == 2 and exact and ops.usable(grads[0]) and ops.usable(x) and x.is_contiguous():
            up = grads[0].contiguous()
            return ops.rms_norm_backward(x, weight, scale, up, grad_weight), grad_weight, None, None
        grad_x, scale = torch.empty_like(x), scale.reshape(*x.shape[:-1], 1)
        for part in row_blocks(x):
            unit = x[part] * scale[part]
            grad = grads[0][part].to(x.dtype)
            grad_weight += (grad * unit).sum(tuple(range(grad.ndim - 1)))
            grad = grad * weight
            mean = (grad * unit).mean(-1, keepdim=True)
            torch.mul(torch.addcmul(grad, unit, mean, value=-1), scale[part], out=grad_x[part])
        return grad_x, grad_weight, None, None


def _is_native(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether there is a native operation from `x` to a tensor of this type."""
    return ops.usable(torch.empty(0, dtype=dtype, device=x.device))


def row_blocks(x: Tensor, in_cache: int = ROWS_IN_CACHE) -> list[slice]:
    """Rows of `x` in pieces of so many, which stay in a cache of the CPU; on other devices all at once."""
    rows = x.shape[0]
    step = in_cache if x.device.type == "cpu" else max(rows, 1)
    return [slice(first, first + step) for first in range(0, rows, step)]


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv 2104.09864), halves layout of Hugging Face checkpoints.

    Computed in the precision of `cos` and `sin` (fp32 or better), returned in that of `x`; differentiable in `x`.
    """
    result: Tensor = _Rotate.apply(x_THD, cos_TD, sin_TD)  # type: ignore[no-untyped-call]
    return result


class _Rotate(torch.autograd.Function):
    """A rotation's gradient is the rotation back, so nothing but the angles is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def _rotated(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, direction: int) -> Tensor:
    if ops.usable(x_THD) and cos_TD.dtype == torch.float32 and x_THD.stride()[1:] == (x_THD.shape[2], 1):
        return ops.rotate(x_THD, cos_TD, sin_TD, direction)
    half = x_THD.shape[-1] // 2
    out = torch.empty(x_THD.shape, dtype=x_THD.dtype, device=x_THD.device)
    for part in row_blocks(x_THD):
        cos, sin = cos_TD[part, None, :half], sin_TD[part, None, :half]
        first, second = x_THD[part, ..., :half], x_THD[part, ..., half:]
        out[part, ..., :half] = torch.addcmul(first * cos, second, sin, value=-direction)
        out[part, ..., half:] = torch.addcmul(second * cos, first, sin, value=direction)
    return out


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up; keeps only its input and recomputes in the backward pass."""

    @staticmethod
    def forward(ctx: Any, gate_up_T2I: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up_T2I)
        return swiglu_inference(gate_up_T2I)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (gate_up,) = ctx.saved_tensors
        if ops.usable(gate_up) and gate_up.is_contiguous() and grads[0].dtype == gate_up.dtype:
            return ops.swiglu_backward(gate_up, grads[0].contiguous())
        result = torch.empty_like(gate_up)
        accurate = torch.promote_types(gate_up.dtype, torch.float32)
        for part in row_blocks(gate_up):
            gate, up = gate_up[part].to(accurate).chunk(2, dim=-1)
            grad = grads[0][part].to(gate.dtype)
            sigmoid = torch.sigmoid(gate)
            silu = gate * sigmoid
            grad_gate, grad_up = result[part].chunk(2, dim=-1)
            grad_up.copy_(grad * silu)
            # d silu(x) / dx = s + silu (1 - s), with s the sigmoid
            grad_gate.copy_(torch.addcmul(sigmoid, silu, 1 - sigmoid).mul_(grad).mul_(up))
        return result


def swiglu(gate_up_T2I: Tensor) -> Tensor:
    """silu(gate) * up (GLU variants, arXiv 2002.05202) of a fused [T, 2I] projection: [T, I], differentiable."""
    result: Tensor = _SwiGLU.apply(gate_up_T2I)  # type: ignore[no-untyped-call]
    return result


@traced("SwiGLU")
def swiglu_inference(gate_up_T2I: Tensor) -> Tensor:
    """silu(gate) * up without a graph."""
    if ops.usable(gate_up_T2I) and gate_up_T2I.is_contiguous():
        return ops.swiglu(gate_up_T2I)
    gate, up = gate_up_T2I.chunk(2, dim=-1)
    if len(row_blocks(gate)) <= 1:
        return F.silu(gate).mul_(up)
    result = torch.empty_like(gate, memory_format=torch.contiguous_format)
    for part in row_blocks(gate):
        torch.mul(F.silu(gate[part]), up[part], out=result[part])
    return result
