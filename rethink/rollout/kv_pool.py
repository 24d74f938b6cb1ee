"""Memory for keys and values of a generation: how much a sequence needs, how many fit, and the caches themselves.

Axes: as in `kernels/decode.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rethink.errors import UsageError
from rethink.kernels.decode import LayerCache
from rethink.kernels.machine import free_memory
from rethink.model.config import DecoderConfig
from rethink.types import GenerationRequest

STEP = 16
"""Places are handed out in multiples of this, so that matrix products meet few different shapes."""
DEFAULT_CONCURRENT = 128
"""Sequences decoded at once unless told otherwise: more gain little on a CPU."""


KV_SHARE = 0.25
"""Share of the free memory that keys and values may take unless told otherwise."""


def default_budget(device: str) -> int:
    """Bytes for keys and values: a share of what the device has free now."""
    return int(free_memory(device) * KV_SHARE)


def round_up(places: int) -> int:
    """The next multiple of STEP, at least one."""
    return max(STEP, -(-places // STEP) * STEP)


def bytes_per_place(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of one token's keys and values in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Size of the caches of one generation."""

    rows: int
    """Groups whose prefix is held at once."""
    sequences: int
    """Sequences decoded at once."""
    prefix: int
    """Places of a prefix."""
    own: int
    """Places of a sequence's own tokens."""


def plan_pool(
    requests: Sequence[GenerationRequest],
    config: DecoderConfig,
    dtype: torch.dtype,
    budget_bytes: int,
    max_concurrent: int | None,
) -> PoolPlan:
    """Fit as many sequences as the budget allows; the rest waits.

    Raises:
        UsageError: not even one sequence fits.
    """
    prefix = round_up(max(len(r.prompt_ids) for r in requests))
    own = round_up(max(r.params.max_new_tokens for r in requests))
    width = max(r.n for r in requests)
    place = bytes_per_place(config, dtype)
    limit = min(max_concurrent or DEFAULT_CONCURRENT, sum(r.n for r in requests))
    for sequences in range(limit, 0, -1):
        # Twice the rows that full groups need: a group's last stragglers keep its row while the next groups start.
        full = -(-sequences // width)
        for rows in (min(len(requests), 2 * full if width > 1 else full), min(len(requests), full)):
            if place * (rows * prefix + sequences * own) <= budget_bytes:
                return PoolPlan(rows, sequences, prefix, own)
    needed = place * (prefix + own)
    raise UsageError(
        f"one sequence of {prefix} prompt tokens and {own} new ones needs {needed / 2**20:.0f} MiB for its keys and "
        f"values, but the KV budget is {budget_bytes / 2**20:.0f} MiB; raise rollout.kv_budget_gb or lower "
        "rollout.max_new_tokens"
    )


def allocate(plan: PoolPlan, config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> list[LayerCache]:
    """Zeroed caches, one per layer. Zeroed since masked places are still multiplied (by 0)."""
    heads, size = config.num_kv_heads, config.head_dim
    prefix, own = (plan.rows, heads, plan.prefix, size), (plan.sequences, heads, plan.own, size)

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return [LayerCache(make(prefix), make(prefix), make(own), make(own)) for _ in range(config.num_layers)]
