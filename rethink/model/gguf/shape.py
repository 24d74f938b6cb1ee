"""The shape of a decoder from a GGUF file's key/value pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethink.errors import ModelError
from rethink.model.decoder.config import Architecture, DecoderConfig, Llama3RopeScaling, check_shape
from rethink.model.decoder.hf_fields import is_neutral

_READABLE: Mapping[str, Architecture] = {"llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3"}
_READ = frozenset(
    "attention.head_count attention.head_count_kv attention.key_length attention.value_length "
    "attention.sliding_window attention.layer_norm_rms_epsilon embedding_length feed_forward_length block_count "
    "context_length expert_count rope.freq_base rope.dimension_count rope.scaling.type "
    "rope.scaling.original_context_length".split()
)
_WITHOUT_EFFECT = frozenset(("vocab_size", "rope.scaling.finetuned", "tensor_data_layout"))
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_CONTEXT = 1.0, 4.0, 8192
"""What every published model with llama3 scaling uses; a GGUF holds only the resulting factors."""


def config_from_gguf(
    fields: Mapping[str, Any],
    source: str,
    vocab_size: int,
    tied: bool,
    rope_factors: NDArray[np.float32] | None,
) -> DecoderConfig:
    """Read the shape.

    Args:
        fields: the file's key/value pairs.
        source: the file, for messages.
        vocab_size: rows of the embedding.
        tied: whether the file has no head of its own.
        rope_factors: [D/2] divisors of the rotary frequencies (`rope_freqs.weight`), where the file has them.

    Raises:
        ModelError: another architecture, a missing key, or something that the decoder does not compute.
    """
    architecture = _architecture(fields, source)
    values = _Values(fields, str(fields["general.architecture"]), source)
    heads, hidden = values.integer("attention.head_count"), values.integer("embedding_length")
    head_dim = values.integer("attention.key_length", hidden // max(heads, 1))
    _refuse_what_is_not_computed(values, head_dim)
    window = values.integer("attention.sliding_window", 0) or None
    if architecture == "llama" and window is not None:
        architecture = "mistral"
    theta = values.number("rope.freq_base", 10000.0)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=values.integer("feed_forward_length"),
        num_layers=values.integer("block_count"),
        num_heads=heads,
        num_kv_heads=values.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=values.number("attention.layer_norm_rms_epsilon"),
        rope_theta=theta,
        max_position_embeddings=values.integer("context_length"),
        tie_word_embeddings=tied,
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        sliding_window=window,
        rope_scaling=None,
    )
    check_shape(config, source)
    if rope_factors is None:
        return config
    return replace(config, rope_scaling=_llama3_scaling(rope_factors, theta, head_dim, values))


class _Values:
    """Typed look-ups of the keys `<architecture>.<name>`."""

    def __init__(self, fields: Mapping[str, Any], prefix: str, source: str):
        self.fields, self.prefix, self.source = fields, prefix, source

    def get(self, name: str) -> Any:
        return self.fields.get(f"{self.prefix}.{name}")

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        value = default if value is None else value
        if type(value) is not int or value < 0:
            raise self._bad(name, value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self._bad(name, value)
        # The file has it in single precision: 9.999999747378752e-06 was written as 1e-05.
        return float(str(np.float32(value)))

    def _bad(self, name: str, value: Any) -> ModelError:
        found = "lacks" if value is None else f"has {str(value)[:60]!r} for"
        return ModelError(
            f"{self.source} {found} the key {self.prefix}.{name}, which must be one positive number; the file is "
            "damaged, or its layers differ from one another, which is not supported: use another file or the "
            "model's Hugging Face folder"
        )


def _architecture(fields: Mapping[str, Any], source: str) -> Architecture:
    if fields.get("general.type", "model") != "model":
        raise ModelError(
            f"{source} is a GGUF of type {str(fields['general.type'])[:60]!r}, not a whole model; give the model's own "
            "file"
        )
    if fields.get("split.count", 0) not in (0, 1):
        raise ModelError(
            f"{source} is one of {str(fields['split.count'])[:60]} parts; join them with llama.cpp's "
            "`llama-gguf-split --merge FIRST_PART OUT.gguf` and give the result"
        )
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in _READABLE:
        raise ModelError(
            f"{source} holds a model of architecture {str(name)[:60]!r}; GGUF files are read for "
            f"{', '.join(_READABLE)}. Use the model's Hugging Face folder or hub id"
        )
    return _READABLE[name]


def _refuse_what_is_not_computed(values: _Values, head_dim: int) -> None:
    reasons = []
    if values.get("expert_count"):
        reasons.append(f"{str(values.get('expert_count'))[:60]} experts")
    if values.get("rope.scaling.type") not in (None, "none"):
        reasons.append(f"rope scaling {str(values.get('rope.scaling.type'))[:60]!r}")
    prefix = f"{values.prefix}."
    for key, value in values.fields.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in _READ | _WITHOUT_EFFECT:
            continue
        # Causal attention is the one thing that false switches off.
        if not (value is True if name == "attention.causal" else is_neutral(value)):
            reasons.append(f"{str(value)[:60]} for {key[:60]!r}")
    if values.integer("rope.dimension_count", head_dim) != head_dim:
        reasons.append(f"rotary embedding on {values.get('rope.dimension_count')} of {head_dim} entries of a head")
    if values.integer("attention.value_length", head_dim) != head_dim:
        reasons.append("values of another head size than keys")
    if reasons:
        raise ModelError(
            f"{values.source} has {' and '.join(reasons)}, which this decoder does not compute; "
            "use the model's Hugging Face folder or hub id"
        )


def _llama3_scaling(
    factors: NDArray[np.float32], theta: float, head_dim: int, values: _Values
) -> Llama3RopeScaling | None:
    """Find the llama3 scaling whose divisors these are; raises where there is none, rather than compute another."""
    if factors.shape == (head_dim // 2,) and np.array_equal(factors, np.ones_like(factors)):
        return None
    scaling = Llama3RopeScaling(
        factor=float(np.max(factors)) if factors.size else 1.0,
        low_freq_factor=_LLAMA3_LOW,
        high_freq_factor=_LLAMA3_HIGH,
        original_max_position_embeddings=values.integer("rope.scaling.original_context_length", _LLAMA3_CONTEXT),
    )
    expected = llama3_divisors(scaling, theta, head_dim)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise ModelError(
            f"{values.source} scales its rotary frequencies by factors that are not those of llama3 scaling with "
            f"factor {scaling.factor:g}; use the model's Hugging Face folder or hub id"
        )
    return scaling


def llama3_divisors(scaling: Llama3RopeScaling, theta: float, head_dim: int) -> NDArray[np.float64]:
    """[D/2] what llama3 scaling divides each rotary frequency by."""
    frequencies = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return np.asarray(1 / ((1 - blend) / scaling.factor + blend))
