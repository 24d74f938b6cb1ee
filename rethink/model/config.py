"""The shape of a decoder of the Llama / Qwen2 / Qwen3 / Mistral family.

Axes: L layers, H query heads, K key/value heads, D head size, V vocabulary, E hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
