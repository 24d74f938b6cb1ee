"""The shape of a decoder of the Llama / Qwen2 / Qwen3 / Mistral family.

Axes: L layers, H query heads, K key/value heads, D head size, V vocabulary, E hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rethink.errors import ModelError

Architecture = Literal["llama", "qwen2", "qwen3", "mistral"]


@dataclass(frozen=True, slots=True)
class Llama3RopeScaling:
    """Frequency scaling of Llama 3.1 and later (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """All that the decoder needs to know of a model."""

    architecture: Architecture
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool = False
    """Biases on the query, key and value projections (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm on each head's query and key before rope (Qwen3)."""
    sliding_window: int | None = None
    """Local attention width (Mistral); the decoder refuses sequences longer than it rather than attend wrongly."""
    rope_scaling: Llama3RopeScaling | None = None


_MOST = {
    "num_layers": 4096,
    "num_heads": 1 << 16,
    "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 26,
    "hidden_size": 1 << 22,
    "intermediate_size": 1 << 24,
    "max_position_embeddings": 1 << 32,
    "sliding_window": 1 << 32,
}
"""Far above any model that there is: what is beyond comes from a damaged or hostile file."""
_LARGEST_THETA = 1e15


def check_shape(config: DecoderConfig, source: str) -> None:
    """Refuse a shape that no model has.

    Args:
        config: the shape.
        source: the file that it is from, for the message.

    Raises:
        ModelError: naming the value.
    """
    for name, most in _MOST.items():
        value = getattr(config, name)
        if value is not None and not 1 <= value <= most:
            raise ModelError(
                f"{source} describes no possible model: its {name} is {value}, and 1 to {most} are allowed. "
                "Download the model again, or use another"
            )
    if config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise ModelError(
            f"{source} describes no possible model: {config.num_heads} query heads, {config.num_kv_heads} key/value "
            f"heads of size {config.head_dim}; query heads must be a multiple of key/value heads and the head size "
            "even. Download the model again"
        )
    scaling = config.rope_scaling
    numbers = {"rms_norm_eps": (config.rms_norm_eps, 1.0), "rope_theta": (config.rope_theta, _LARGEST_THETA)}
    if scaling is not None:
        numbers |= {name: (getattr(scaling, name), 1e6) for name in ("factor", "low_freq_factor", "high_freq_factor")}
    for name, (number, largest) in numbers.items():
        if not math.isfinite(number) or not 0 < number <= largest:
            raise ModelError(
                f"{source} describes no possible model: its {name} is {number}, which must be above 0 and at most "
                f"{largest:g}. Download the model again, or use another"
            )
