"""The native kernels as functions of tensors. Types of tensors are checked here, since a kernel that reads another type
runs past the end of its memory; shapes and strides by the callers in `rethink.kernels`.

Axes: T rows, I and O widths, H query heads, K key/value heads, D head size, C head rows, V vocabulary, B sequences.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rethink.kernels.native.library import Native, native
from rethink.kernels.trace import span
from rethink.machine.allocator import ask_for_huge_pages

OUT_BF16, OUT_FP32, OUT_ADD = 0, 1, 2
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64
INT16, INT32, INT64 = torch.int16, torch.int32, torch.int64


def usable(x: Tensor) -> bool:
    """Whether native kernels exist for a tensor of this kind: fp32 or bf16 on the CPU, as the processor allows."""
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
        return False
    found = native()
    return found is not None and (found.bf16 or x.dtype == torch.float32)


def _address(x: Tensor, dtype: torch.dtype) -> int:
    """Of a tensor that a kernel takes for one of this type.

    Raises:
        TypeError: it is of another type.
    """
    if x.dtype != dtype:
        raise TypeError(f"a native kernel reads {dtype} and was given {x.dtype}")
    return x.data_ptr()


def _pointer(x: Tensor | None, dtype: torch.dtype) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if x is None else _address(x, dtype))


def _is_bf16(x: Tensor) -> bool:
    """Which of its two types a kernel is told to read."""
    if x.dtype not in (BF16, FP32):
        raise TypeError(f"a native kernel reads {BF16} or {FP32} and was given {x.dtype}")
    return x.dtype == BF16


_long, _float, _int = ctypes.c_int64, ctypes.c_float, ctypes.c_int


def _function(name: str) -> Any:
    found: Native | None = native()
    assert found is not None, "callers ask `usable` first"
    return getattr(found.functions, name)


def _call(name: str, *arguments: Any, sizes: tuple[int, ...] = ()) -> None:
    """A native function returns 0, or 1 where memory ran out. `sizes` are for `rethink profile`."""
    with span(name, *sizes):
        failed = _function(name)(*arguments)
    if failed:
        raise MemoryError(f"{name} could not get memory")


# --- matrix products -----------------------------------------------------------------------------------------------


def pack_weight(weight: Tensor, transposed: bool, out: Tensor | None = None) -> Tensor:
    """A matrix laid out for `product`: [O, I] for `x @ W.T` (`transposed`), or [I, O] for `x @ W`. In its type: bf16 or
    fp32.
    """
    outputs, inputs = weight.shape if transposed else weight.shape[::-1]
    size = _packed_size(outputs, inputs, weight.dtype)
    if out is None:
        out = torch.empty(size, dtype=weight.dtype)
    with span("rt_pack_b", outputs, inputs):
        _function("rt_pack_b" if _is_bf16(weight) else "rt_pack_b_f32")(
            _pointer(weight, weight.dtype), _long(outputs), _long(inputs), _long(weight.stride(0)), _int(transposed),
            _pointer(out, weight.dtype),
        )  # fmt: skip
    return out[:size]


def product(
    a: Tensor, packed: Tensor, out: Tensor, kind: int, *, transposed: bool = False, bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A B (+ bias) (+ residual) into `out` [T, O]: bf16, fp32, or added to fp32. All of the type of `packed`, but the
    residual is fp32, and so is an `a` where that is wanted.

    `a` is [T, I], or [I, T] if `transposed`.
    """
    (inputs, rows), outputs = a.shape if transposed else a.shape[::-1], out.shape[1]
    bf16 = _is_bf16(packed)
    own = packed.dtype if kind == OUT_BF16 else FP32
    layout = (2 if transposed else 0) + (not _is_bf16(a)) if bf16 else int(transposed)
    _call(
        "rt_gemm" if bf16 else "rt_gemm_f32", _int(layout), _pointer(a, a.dtype if bf16 else FP32), _long(a.stride(0)),
        _long(rows), _long(inputs), _pointer(packed, packed.dtype), _long(outputs), _pointer(bias, packed.dtype),
        _pointer(residual, FP32), _long(0 if residual is None else residual.stride(0)),
        _int(kind if bf16 else kind == OUT_ADD), _pointer(out, own), _long(out.stride(0)),
        sizes=(rows, inputs, outputs),
    )  # fmt: skip
    return out


def _packed_size(outputs: int, inputs: int, dtype: torch.dtype) -> int:
    """Entries of a packed matrix."""
    function = _function("rt_packed_bf16" if dtype == BF16 else "rt_packed_f32")
    function.restype = _long
    return int(function(_long(outputs), _long(inputs)))


_KEPT = threading.local()


def scratch(size: int, purpose: str = "packed", dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Memory that each thread keeps for a purpose, one user at a time: fresh pages would be faulted in every time."""
    mine = vars(_KEPT)
    kept: Tensor | None = mine.get(purpose)
    if kept is None or kept.numel() < size or kept.dtype != dtype:
        mine.pop(purpose, None)
        del kept  # before the larger one is taken
        kept = mine[purpose] = torch.empty(size, dtype=dtype)
        ask_for_huge_pages(kept)
    return kept


def release_scratch(above: int) -> None:
    """Give back what this thread keeps for purposes that take more bytes than `above`."""
    mine = vars(_KEPT)
    for purpose in [purpose for purpose, kept in mine.items() if kept.nbytes > above]:
        del mine[purpose]


def pack_now(matrix: Tensor, transposed: bool, purpose: str = "packed") -> Tensor:
    """`pack_weight` into scratch memory: valid until the next call for the same purpose."""
    outputs, inputs = matrix.shape if transposed else matrix.shape[::-1]
    return pack_weight(matrix, transposed, scratch(_packed_size(outputs, inputs, matrix.dtype), purpose, matrix.dtype))


# --- element-wise --------------------------------------------------------------------------------------------------


def rms_norm(x_TE: Tensor, weight_E: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Normed rows in `dtype`, and each row's factor [T]."""
    rows, width = x_TE.shape
    out, scale = torch.empty(rows, width, dtype=dtype), torch.empty(rows)
    _call("rt_rms_norm", _is_bf16(out), _pointer(x_TE, FP32), _pointer(weight_E, FP32), _float(epsilon), _long(rows),
          _long(width), _pointer(out, dtype), _pointer(scale, FP32))  # fmt: skip
    return out, scale


def rms_norm_backward(
    x_TE: Tensor, weight_E: Tensor, scale_T: Tensor, grad_TE: Tensor, grad_weight_E: Tensor
) -> Tensor:
    """Gradient of x; the weight's is added to `grad_weight`."""
    grad_x = torch.empty_like(x_TE)
    _call("rt_rms_norm_backward", _is_bf16(grad_TE), _pointer(x_TE, FP32), _pointer(weight_E, FP32),
          _pointer(scale_T, FP32), _pointer(grad_TE, grad_TE.dtype), _long(x_TE.shape[0]), _long(x_TE.shape[1]),
          _pointer(grad_x, FP32), _pointer(grad_weight_E, FP32))  # fmt: skip
    return grad_x


def swiglu(gate_up_T2I: Tensor) -> Tensor:
    """silu(gate) * up [T, I]."""
    rows, width = gate_up_T2I.shape[0], gate_up_T2I.shape[1] // 2
    out = torch.empty(rows, width, dtype=gate_up_T2I.dtype)
    kind = out.dtype
    _call("rt_swiglu", _is_bf16(out), _pointer(gate_up_T2I, kind), _long(rows), _long(width), _pointer(out, kind))
    return out


def swiglu_backward(gate_up_T2I: Tensor, grad_TI: Tensor) -> Tensor:
    """Gradient [T, 2I]."""
    out = torch.empty_like(gate_up_T2I)
    kind = out.dtype
    _call("rt_swiglu_backward", _is_bf16(out), _pointer(gate_up_T2I, kind), _pointer(grad_TI, kind),
          _long(grad_TI.shape[0]), _long(grad_TI.shape[1]), _pointer(out, kind))  # fmt: skip
    return out


def rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, direction: int) -> Tensor:
    """Rotary embedding of rows that need not be adjacent; the result is contiguous."""
    rows, heads, size = x_THD.shape
    out = torch.empty(rows, heads, size, dtype=x_THD.dtype)
    _call("rt_rotate", _is_bf16(out), _pointer(x_THD, out.dtype), _long(x_THD.stride(0)), _long(rows), _long(heads),
          _long(size), _pointer(cos_TD, FP32), _pointer(sin_TD, FP32), _float(direction), _pointer(out, out.dtype),
          _long(heads * size))  # fmt: skip
    return out


# --- attention -----------------------------------------------------------------------------------------------------


class Shape(ctypes.Structure):
    """As in attention.h."""

    _fields_ = (("heads", _long), ("kv_heads", _long), ("size", _long), ("scale", _float))


class Runs(ctypes.Structure):
    """As in attention.h: consecutive rows of one sequence, and the blocks of its keys."""

    _fields_ = (
        ("number", _long), ("row", ctypes.c_void_p), ("length", ctypes.c_void_p), ("position", ctypes.c_void_p),
        ("table", ctypes.c_void_p), ("tables", ctypes.c_void_p), ("table_width", _long),
    )  # fmt: skip


def runs_of(row: Tensor, length: Tensor, position: Tensor, table: Tensor, tables_SW: Tensor) -> Runs:
    """The struct over int32 tensors, which must outlive it."""
    addresses = (_address(x, INT32) for x in (row, length, position, table, tables_SW))
    return Runs(len(row), *addresses, tables_SW.stride(0))


def shape_of(q_THD: Tensor, kv_heads: int) -> Shape:
    """Heads and scale of queries."""
    return Shape(q_THD.shape[1], kv_heads, q_THD.shape[2], q_THD.shape[2] ** -0.5)


def attention_forward(
    q_THD: Tensor, kv_heads: int, runs: Runs, k_blocks: Tensor, v_blocks: Tensor, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Outputs [T, H, D] and, base 2, log-sum-exps [T, H]; rows that no run covers stay unwritten."""
    out = torch.empty(q_THD.shape, dtype=q_THD.dtype)
    lse = torch.empty(q_THD.shape[:2]) if with_lse else None
    shape = shape_of(q_THD, kv_heads)
    kind = q_THD.dtype
    _call("rt_attention_forward", _is_bf16(q_THD), ctypes.byref(shape), ctypes.byref(runs), _pointer(q_THD, kind),
          _long(q_THD.stride(0)), _pointer(k_blocks, kind), _pointer(v_blocks, kind), _pointer(out, kind),
          _long(out.stride(0)), _pointer(lse, FP32))  # fmt: skip
    return out, lse


def gather_blocks(x_TKD: Tensor, source: Tensor, dots: Tensor | None, sums: Tensor | None) -> None:
    """Blocks of sixteen rows in the layouts of attention.cpp; source [blocks, 16] int32, -1 for nothing."""
    kind = x_TKD.dtype
    _call("rt_attention_gather", _is_bf16(x_TKD), _pointer(x_TKD, kind), _long(x_TKD.stride(0)), _long(x_TKD.shape[1]),
          _long(x_TKD.shape[2]), _pointer(source, INT32), _long(source.shape[0]), _pointer(dots, kind),
          _pointer(sums, kind))  # fmt: skip


def attention_backward(
    qkv: tuple[Tensor, Tensor, Tensor], attended: tuple[Tensor, Tensor], grad: Tensor, runs: Runs, segments: Tensor,
    source: Tensor, grads: tuple[Tensor, Tensor, Tensor],
) -> None:  # fmt: skip
    """Gradients of queries, keys and values into `grads`, whose rows need not be adjacent.

    `attended` is what `attention_forward` gave: outputs and log-sum-exps.
    """
    q, (out, lse) = qkv[0], attended
    shape = shape_of(q, qkv[1].shape[1])
    given, made = ([v for x in xs for v in (_pointer(x, q.dtype), _long(x.stride(0)))] for xs in (qkv, grads))
    _call("rt_attention_backward", _is_bf16(q), ctypes.byref(shape), ctypes.byref(runs), _pointer(segments, INT32),
          _long(segments.shape[0]), _pointer(source, INT32), _long(source.shape[0]), _long(q.shape[0]), *given,
          _pointer(out, q.dtype), _pointer(lse, FP32), _pointer(grad, q.dtype), *made)  # fmt: skip


def cache_write(
    k_TKD: Tensor, v_TKD: Tensor, pages_T: Tensor, places_T: Tensor, k_pages: Tensor, v_pages: Tensor
) -> None:
    """Keys and values into their places of a paged cache."""
    shape = shape_of(k_TKD, k_TKD.shape[1])
    kind = k_TKD.dtype
    _call("rt_cache_write", _is_bf16(k_TKD), ctypes.byref(shape), _long(k_TKD.shape[0]), _pointer(k_TKD, kind),
          _long(k_TKD.stride(0)), _pointer(v_TKD, kind), _long(v_TKD.stride(0)), _pointer(pages_T, INT32),
          _pointer(places_T, INT32), _pointer(k_pages, kind), _pointer(v_pages, kind))  # fmt: skip


# --- whole layers --------------------------------------------------------------------------------------------------


class LayerPointers(ctypes.Structure):
    """As in layers.cpp: a layer's weights and pages. The tensors must outlive it."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("input_norm", "qkv", "qkv_bias", "q_norm", "k_norm", "output", "post_norm", "gate_up", "down",
                     "k_pages", "v_pages")
    )  # fmt: skip


class Widths(ctypes.Structure):
    """As in layers.cpp."""

    _fields_ = (("layers", _long), ("hidden", _long), ("intermediate", _long), ("epsilon", _float))


class _Rows(ctypes.Structure):
    _fields_ = (
        ("number", _long), ("x", ctypes.c_void_p), ("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p),
        ("page", ctypes.c_void_p), ("place", ctypes.c_void_p),
    )  # fmt: skip


def layer_pointers(dtype: torch.dtype, **tensors: Tensor | None) -> LayerPointers:
    """A layer's tensors by field name, the norms' in fp32, the others in `dtype`; None where the family has none."""
    kinds = {name: FP32 if name.endswith("norm") else dtype for name in tensors}
    return LayerPointers(**{name: None if x is None else _address(x, kinds[name]) for name, x in tensors.items()})


@dataclass(frozen=True, slots=True)
class Stack:
    """All layers."""

    shape: Shape
    widths: Widths
    pointers: ctypes.Array[LayerPointers]
    bf16: bool
    """Type of the products; else fp32."""


def layers(
    x_TE: Tensor, stack: Stack, runs: Runs, cos_TD: Tensor, sin_TD: Tensor, page_T: Tensor, place_T: Tensor
) -> None:
    """All layers over a paged cache; the residual stream (fp32) is overwritten."""
    numbers = (_address(x, FP32) for x in (x_TE, cos_TD, sin_TD))
    rows = _Rows(len(x_TE), *numbers, *(_address(x, INT32) for x in (page_T, place_T)))
    structs = (ctypes.byref(x) for x in (stack.shape, stack.widths, runs, rows))
    _call("rt_layers", _int(stack.bf16), *structs, stack.pointers)


# --- head ----------------------------------------------------------------------------------------------------------


def head_logprobs(
    logits_CV: Tensor, targets_C: Tensor, temperature: float, logprobs_C: Tensor, entropies_C: Tensor | None,
    lse_C: Tensor | None,
) -> None:  # fmt: skip
    """Fill log-probabilities, entropies and log-sum-exps of fp32 logits at a temperature."""
    rows, width = logits_CV.shape
    _call("rt_head_logprobs", _pointer(logits_CV, FP32), _long(logits_CV.stride(0)), _long(rows), _long(width),
          _pointer(targets_C, INT64), _float(1 / temperature), _pointer(logprobs_C, FP32), _pointer(entropies_C, FP32),
          _pointer(lse_C, FP32))  # fmt: skip


def head_gradient(
    logits_CV: Tensor, targets_C: Tensor, lse_C: Tensor, coefficients_C: Tensor, temperature: float, dtype: torch.dtype
) -> Tensor:
    """Gradient of the logits in their own memory: fp32, or bf16 in the first half of each row."""
    rows, width = logits_CV.shape
    out = logits_CV if dtype == torch.float32 else logits_CV.view(dtype)[:, :width]  # of twice as many, half as wide
    _call("rt_head_gradient", _pointer(logits_CV, FP32), _long(logits_CV.stride(0)), _long(rows), _long(width),
          _pointer(targets_C, INT64), _pointer(lse_C, FP32), _pointer(coefficients_C, FP32), _float(1 / temperature),
          _is_bf16(out), _pointer(out, dtype), _long(out.stride(0)))  # fmt: skip
    return out


def sample(logits_BV: Tensor, temperature: float, uniforms_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probabilities [B]; temperature 0 takes the most likely token, at temperature 1."""
    rows, width = logits_BV.shape
    tokens, logprobs = torch.empty(rows, dtype=torch.long), torch.empty(rows)
    inverse = 1 / temperature if temperature else 1.0
    _call("rt_sample", _pointer(logits_BV, FP32), _long(logits_BV.stride(0)), _long(rows), _long(width),
          _float(inverse), _int(temperature == 0), _pointer(uniforms_B, FP64), _pointer(tokens, INT64),
          _pointer(logprobs, FP32))  # fmt: skip
    return tokens, logprobs


# --- optimizer -----------------------------------------------------------------------------------------------------


class AdamWNumbers(NamedTuple):
    """As adamw.cpp takes them."""

    scale: float
    """Of the gradient."""
    keep: float
    """Share of the weight that decay leaves."""
    mean_share: float
    """1 - beta1."""
    square_keep: float
    """beta2."""
    step: float
    """Rate / (1 - beta1^t)."""
    spread: float
    """sqrt(1 - beta2^t)."""
    epsilon: float


def adamw(
    weight_N: Tensor, low_N: Tensor | None, gradient_N: Tensor, mean_N: Tensor, square_N: Tensor, numbers: AdamWNumbers
) -> None:
    """One update in place (see `kernels.adamw`); the gradient is cleared."""
    whole = FP32 if low_N is None else BF16
    _call("rt_adamw", _pointer(weight_N, whole), _pointer(low_N, INT16),
          *(_pointer(x, FP32) for x in (gradient_N, mean_N, square_N)), _long(weight_N.numel()), *map(_float, numbers),
          sizes=(weight_N.numel(),))  # fmt: skip
