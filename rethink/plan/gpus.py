"""What a run would take on graphics processors, for plans that are beyond the machine at hand.

The processor is NVIDIA's H800, which DeepSeek-R1 was trained on: 80 GB, and 4e14 floating-point operations a second,
which is 40 % of its rate in bf16 without sparsity. What is assumed:

- processors come in nodes of 8, and a run takes as many nodes as its memory needs, no fewer;
- what lasts (masters, moments, gradients, compute weights, reference) is spread evenly over all of them (ZeRO stage 3,
  arXiv 1910.02054; torch's FSDP2);
- of the activations only each layer's input is kept, and one layer is computed again at a time; the tokens of a
  sequence and its keys and values are spread over its node.

It says what must fit, not what is fast, and it leaves out all that frameworks take for themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rethink.plan.estimate import Memory, activation_bytes
from rethink.recipe.schema import ModelShape

RATE = 4e14
"""Floating-point operations a second of one."""
MEMORY_BYTES = 80 * 10**9
NODE = 8
LARGE = 1e18
"""Operations of a run from which on its plan speaks of graphics processors."""


@dataclass(frozen=True, slots=True)
class GPUPlan:
    """The fewest graphics processors that hold a run, and how long they take."""

    number: int
    """Whole nodes."""
    bytes_each: int
    """Memory of each, of `MEMORY_BYTES`."""
    hours: float
    """GPU hours of the whole run; the same for any number of them."""


def plan_gpus(shape: ModelShape, memory: Memory, longest: int, value_bytes: int, flops: float) -> GPUPlan | None:
    """The fewest processors that hold a run; None where no number does, since one sequence is too long for a node.

    Args:
        shape: of the model.
        memory: as the run's estimate has it.
        longest: tokens of the longest sequence.
        value_bytes: bytes of a number in the compute type.
        flops: of the whole run.
    """
    inputs = shape.layers * shape.hidden_size * value_bytes
    layer = activation_bytes(shape, value_bytes) // shape.layers
    sequence = math.ceil(longest / NODE) * (inputs + layer)
    cache = math.ceil(memory.keys_and_values_least / NODE)
    fixed = max(sequence, cache) + memory.logits
    room = MEMORY_BYTES - fixed
    if room <= 0:
        return None
    nodes = math.ceil(memory.weights / (room * NODE))
    number = max(1, nodes) * NODE
    return GPUPlan(number, math.ceil(memory.weights / number) + fixed, flops / RATE / 3600)


def gpus_text(plan: GPUPlan | None, flops: float) -> str:
    """A sentence for a plan; empty for a run that needs none."""
    if flops < LARGE:
        return ""
    if plan is None:
        return f"One sequence does not fit into a node of {NODE} H800."
    return (
        f"On H800 of 80 GB: at least {plan.number}, {plan.bytes_each / 1e9:.0f} GB each, with everything that lasts "
        f"spread evenly over them and layers computed again; {plan.hours:,.0f} GPU hours at {RATE:.0e} operations a "
        "second each, rewards and evaluations aside."
    )
