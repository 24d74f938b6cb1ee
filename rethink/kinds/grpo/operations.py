"""A trace's events by phase and operation: what each took by itself, and how fast its matrix products were.

An event belongs to the innermost name around it that says something: a native kernel, a span, a differentiable function
of ours. Torch operations outside of all of these go by their own names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "rethink:"
BETWEEN = "between operations"
"""What a phase took that no operation did: Python."""
OTHER = "other torch operations"
ATTENTION = "attention"
TORCH = "torch "
SMALL = 0.005
"""Torch operations below this share of the step are added up."""

PHASES = (
    *("step", "rollout", "prefill", "decode", "rewards", "critic", "old log-probabilities", "training", "packing"),
    *("reference", "forward", "backward", "optimizer"),
)
"""The spans that are phases; others are operations."""
FUNCTIONS = {
    "_TreeAttention": ATTENTION,
    "_RMSNorm": "norms",
    "_Rotate": "rotary embedding",
    "_SwiGLU": "SwiGLU",
    "_HeadLoss": "head",
    "_Embed": "embedding",
    "_Linear": BETWEEN,
    "rt_pack_b": "laying out matrices",
    "rt_rms_norm": "norms",
    "rt_swiglu": "SwiGLU",
    "rt_rotate": "rotary embedding",
    "rt_attention": ATTENTION,
    "rt_cache_write": ATTENTION,
    "rt_head": "head",
    "rt_sample": "sampling",
    "rt_adamw": "AdamW",
}
"""Beginnings of the names of autograd functions and native kernels."""
PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "mkldnn::_linear_pointwise": 0, "aten::bmm": 0, "aten::baddbmm": 1}
"""Torch's matrix products, and which argument is the left factor."""

Key = tuple[str, str]
"""(phase, operation)."""


@dataclass(slots=True)
class Operation:
    """One operation within one phase. Seconds and calls are of a step."""

    phase: str
    name: str
    calls: float = 0.0
    seconds: float = 0.0
    share: float = 0.0
    """Of the traced step."""
    gflop: float = 0.0
    """Of matrix products; else 0."""
    gflops: float | None = None
    machine_share: float | None = None
    """Of the machine's rate of matrix products."""


def event_name(name: str, sizes: tuple[int, ...]) -> str:
    """How a span is written into a trace; `_parsed` reads it."""
    return PREFIX + name + ("|" + ",".join(map(str, sizes)) if sizes else "")


def _parsed(event: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = event.removeprefix(PREFIX).partition("|")
    return name, tuple(int(size) for size in sizes.split(",")) if sizes else ()


def operations_of(
    events: Iterable[Any], matrices: Mapping[tuple[int, int], str], steps: int, rate: float
) -> tuple[list[Operation], float]:
    """Sort a trace of `steps` steps.

    Args:
        events: torch's `FunctionEvent`s.
        matrices: [outputs, inputs] of weights to names.
        rate: the machine's matrix products in GFLOP/s.

    Returns:
        The operations, phase after phase and the slowest first; and the seconds of a step, which they add up to.
    """
    keys: dict[int, Key | None] = {}
    found: dict[Key, Operation] = {}
    for event in events:
        key = _key_of(event, keys, matrices)
        if key is None:
            continue
        operation = found.setdefault(key, Operation(*key))
        operation.seconds += event.self_cpu_time_total / 1e6 / steps
        parent = None if event.cpu_parent is None else keys[event.cpu_parent.id]
        operation.gflop += 2e-9 * _multiplications(event) / steps
        if parent != key:
            operation.calls += 1 / steps
    total = sum(operation.seconds for operation in found.values())
    kept = _without_small(found.values(), total)
    for operation in kept:
        operation.share = operation.seconds / total if total else 0.0
        if operation.gflop and operation.seconds:
            operation.gflops = operation.gflop / operation.seconds
            operation.machine_share = operation.gflops / rate
    order = {phase: i for i, phase in enumerate(PHASES)}
    return sorted(kept, key=lambda o: (order[o.phase], -o.seconds)), total


def _key_of(event: Any, keys: dict[int, Key | None], matrices: Mapping[tuple[int, int], str]) -> Key | None:
    """The event's phase and operation; None outside of every step. Parents are looked up first, once each."""
    chain = []
    while event is not None and event.id not in keys:
        chain.append(event)
        event = event.cpu_parent
    key = None if event is None else keys[event.id]
    for inner in reversed(chain):
        key = keys[inner.id] = _key_within(key, inner, matrices)
    return key


def _key_within(outer: Key | None, event: Any, matrices: Mapping[tuple[int, int], str]) -> Key | None:
    name, ours = _parsed(event.name)[0], event.name.startswith(PREFIX)
    if ours and name in PHASES:
        return None if outer is None and name != "step" else (name, BETWEEN)
    if outer is None:
        return None
    phase, around = outer
    if sizes := _factors(event):
        return outer if around == ATTENTION else (phase, _product_name(sizes, matrices))
    for beginning, operation in FUNCTIONS.items():
        if name.startswith(beginning):
            return phase, operation
    if ours:
        return phase, name
    if "scaled_dot_product" in name:
        return phase, ATTENTION
    return (phase, TORCH + name.removeprefix("aten::")) if around == BETWEEN or around.startswith(TORCH) else outer


def _factors(event: Any) -> tuple[int, int, int] | None:
    """Rows, inner size and columns of a matrix product; None of anything else."""
    name, sizes = _parsed(event.name)
    if name in ("rt_gemm", "rt_gemm_f32"):
        rows, inner, columns = sizes
        return rows, inner, columns
    place = PRODUCTS.get(event.name)
    if place is None or len(event.input_shapes) < place + 2:
        return None
    left, right = event.input_shapes[place : place + 2]
    if len(left) < 2 or len(right) < 2:
        return None
    inner = left[-1]
    return left[-2], inner, right[-2] if right[-1] == inner and "linear" in event.name else right[-1]


def _multiplications(event: Any) -> int:
    sizes = _factors(event)
    if sizes is None:
        return 0
    batch = event.input_shapes[PRODUCTS[event.name]][0] if "bmm" in event.name else 1
    return int(batch * sizes[0] * sizes[1] * sizes[2])


def _product_name(sizes: tuple[int, int, int], matrices: Mapping[tuple[int, int], str]) -> str:
    """By the weight whose shape takes part: forward, gradient of its input, gradient of itself."""
    rows, inner, columns = sizes
    for shape in ((columns, inner), (inner, columns), (rows, columns), (columns, rows)):
        if shape in matrices:
            return f"product: {matrices[shape]}"
    return "product: other shapes"


def _without_small(operations: Iterable[Operation], total: float) -> list[Operation]:
    kept: dict[Key, Operation] = {}
    for operation in operations:
        name = OTHER if operation.name.startswith(TORCH) and operation.seconds < SMALL * total else operation.name
        into = kept.setdefault((operation.phase, name), Operation(operation.phase, name))
        into.calls += operation.calls
        into.seconds += operation.seconds
        into.gflop += operation.gflop
    return list(kept.values())
