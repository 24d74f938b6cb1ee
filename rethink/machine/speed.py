"""Measured rates of matrix products, and the compute type that follows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

ComputeType = Literal["bfloat16", "float32"]

COMPUTE_TYPES: tuple[ComputeType, ...] = ("float32", "bfloat16")
"""Types that are measured, in order of preference when they are equally fast."""

BFLOAT16_GAIN = 1.25
"""bf16 rounds what fp32 keeps, so it is chosen only where it is faster by this factor."""


def measure_gemm(
    compute_types: Sequence[ComputeType] = COMPUTE_TYPES,
    *,
    device: str = "cpu",
    rows: int = 1024,
    width: int = 768,
    seconds: float = 0.2,
) -> dict[ComputeType, float]:
    """Best observed rate of a [rows, width] @ [width, width] product in GFLOP/s, with torch's current thread count.

    The types take turns, so that a busy moment hurts all of them; the best of each is reported, since other load can
    only slow a product down. A small product goes first: a type so slow that the large one would take ten times
    `seconds` is judged by the small one alone.
    """
    import torch

    types = {name: getattr(torch, name) for name in compute_types}
    best = {name: _gemm_rate(dtype, device, 256, 256) for name, dtype in types.items()}
    flops = 2.0 * rows * width * width
    affordable = {name: dtype for name, dtype in types.items() if flops / (best[name] * 1e9) < 10 * seconds}
    operands = {name: _operands(dtype, device, rows, width) for name, dtype in affordable.items()}
    deadline = time.perf_counter() + seconds * len(operands)
    while operands and time.perf_counter() < deadline:
        for name, (left, right) in operands.items():
            best[name] = max(best[name], flops / _time_product(left, right, device) / 1e9)
    return best


def choose_dtype(measured: Mapping[ComputeType, float]) -> ComputeType:
    """The compute type for these rates (GFLOP/s): bf16 only where it is faster by `BFLOAT16_GAIN`."""
    fp32, bf16 = measured.get("float32", 0.0), measured.get("bfloat16", 0.0)
    return "bfloat16" if bf16 >= BFLOAT16_GAIN * fp32 and bf16 > 0 else "float32"


def _operands(dtype: torch.dtype, device: str, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    left = torch.ones(rows, width, dtype=dtype, device=device)
    return left, torch.ones(width, width, dtype=dtype, device=device)


def _gemm_rate(dtype: torch.dtype, device: str, rows: int, width: int) -> float:
    """GFLOP/s of a small product: the best of several within a tenth of a second (the first one also compiles)."""
    left, right = _operands(dtype, device, rows, width)
    times: list[float] = []
    while len(times) < 2 or (len(times) < 20 and sum(times) < 0.1):
        times.append(_time_product(left, right, device))
    return 2.0 * rows * width * width / min(times) / 1e9


def _time_product(left: torch.Tensor, right: torch.Tensor, device: str) -> float:
    import torch

    start = time.perf_counter()
    left @ right
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return max(time.perf_counter() - start, 1e-9)
