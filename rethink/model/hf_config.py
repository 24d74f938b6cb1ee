"""Hugging Face `config.json` to `DecoderConfig` and back.

The keys and their defaults are those of `transformers`' LlamaConfig, Qwen2Config, Qwen3Config and MistralConfig.
Version 5 of that library writes `rope_parameters` where earlier ones wrote `rope_theta` and `rope_scaling`; both are
read. What the decoder cannot compute exactly is never approximated: it is handed on to `transformers`, with the
reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from rethink.errors import ModelError
from rethink.model.config import Architecture, DecoderConfig, Llama3RopeScaling

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)
CLASS_NAMES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
ROPE_TYPES_OF_TRANSFORMERS = ("linear", "dynamic", "yarn", "longrope", "proportional")
"""Rope scalings that our decoder does not compute but `transformers` does."""
_DEFAULT_KV_HEADS = {"qwen2": 32, "qwen3": 32, "mistral": 8}
_DEFAULT_CONTEXT = {"llama": 2048, "qwen2": 32768, "qwen3": 32768, "mistral": 131072}
_MISTRAL_DEFAULT_WINDOW = 4096


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """A decoder configuration, or the reason why our decoder does not compute this model."""

    config: DecoderConfig | None
    reason: str | None = None


def parse_hf_config(hf: Mapping[str, Any], source: str) -> ParsedConfig:
    """Read a `config.json`.

    Args:
        hf: the file's content.
        source: where it came from, for messages.

    Returns:
        The configuration, or None with the reason when the architecture is not one that the decoder computes.

    Raises:
        ModelError: the file is incomplete, its values are of the wrong kind, or nothing can load the model.
    """
    model_type = hf.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(
            f"config.json of {source} has no `model_type`, so the architecture is not known; "
            "give a folder that `save_pretrained` wrote, or one downloaded from the hub whole"
        )
    if hf.get("quantization_config"):
        raise ModelError(
            f"{source} holds weights quantised by {_quantiser(hf)!r}, which cannot be trained; "
            "give the unquantised model (float32, float16 or bfloat16 safetensors), or a GGUF file"
        )
    if model_type not in ARCHITECTURES:
        return ParsedConfig(None, f"architecture {model_type!r} is none of {', '.join(ARCHITECTURES)}")
    reason = _outside_the_family(hf, model_type)
    if reason is not None:
        return ParsedConfig(None, reason)
    try:
        return _parse_family(hf, cast(Architecture, model_type), source)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"config.json of {source} holds a value of the wrong kind ({error}); download the model again"
        ) from error


def to_hf_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder, in keys that `transformers` 4 and 5 both read."""
    hf: dict[str, Any] = {
        "architectures": [CLASS_NAMES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_hf(config.rope_scaling),
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "use_cache": True,
    }
    if config.architecture in ("llama", "qwen3"):
        hf["attention_bias"] = False
    if config.architecture == "mistral":
        hf["sliding_window"] = config.sliding_window
    if config.architecture in ("qwen2", "qwen3"):
        hf["use_sliding_window"] = config.sliding_window is not None
        hf["sliding_window"] = config.sliding_window
        if config.sliding_window is not None:
            # The decoder refuses sequences past the window, so which layers slide makes no difference below it.
            hf["max_window_layers"] = 0
    return hf


def expected_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that the decoder needs, as a Hugging Face checkpoint calls them."""
    e, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (e,),
        "post_attention_layernorm.weight": (e,),
        "self_attn.q_proj.weight": (queries, e),
        "self_attn.k_proj.weight": (keys, e),
        "self_attn.v_proj.weight": (keys, e),
        "self_attn.o_proj.weight": (e, queries),
        "mlp.gate_proj.weight": (f, e),
        "mlp.up_proj.weight": (f, e),
        "mlp.down_proj.weight": (e, f),
    }
    if config.qkv_bias:
        layer |= {f"self_attn.{n}_proj.bias": (queries if n == "q" else keys,) for n in "qkv"}
    if config.qk_norm:
        layer |= {f"self_attn.{n}_norm.weight": (config.head_dim,) for n in "qk"}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, e), "model.norm.weight": (e,)}
    for i in range(config.num_layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (v, e)
    return shapes


def _quantiser(hf: Mapping[str, Any]) -> str:
    details = hf["quantization_config"]
    return str(details.get("quant_method", "unknown")) if isinstance(details, Mapping) else "unknown"


def _outside_the_family(hf: Mapping[str, Any], model_type: str) -> str | None:
    """Why the decoder would compute this model wrongly; None when it would not."""
    if hf.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"activation {hf['hidden_act']!r} instead of silu"
    if hf.get("mlp_bias"):
        return "biases in the feed-forward layers (mlp_bias)"
    if model_type != "qwen2" and hf.get("attention_bias"):
        return "biases in the attention layers (attention_bias)"
    kinds = set(hf.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"layers of type {', '.join(sorted(map(str, kinds)))}"
    rope = _rope_values(hf)
    if rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)) not in (None, 1.0, 1):
        return "rotary embedding on a part of each head (partial_rotary_factor)"
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "rotary parameters that differ between layers"
    kind = _rope_type(rope)
    return f"rope scaling {kind!r}" if kind in ROPE_TYPES_OF_TRANSFORMERS else None


def _parse_family(hf: Mapping[str, Any], architecture: Architecture, source: str) -> ParsedConfig:
    def need(key: str) -> int:
        if hf.get(key) is None:
            raise ModelError(
                f"config.json of {source} has no `{key}`, which a {architecture} model needs; download the model again"
            )
        return int(hf[key])

    heads, hidden = need("num_attention_heads"), need("hidden_size")
    rope = _rope_values(hf)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=need("vocab_size"),
        hidden_size=hidden,
        intermediate_size=need("intermediate_size"),
        num_layers=need("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=int(hf.get("num_key_value_heads") or _DEFAULT_KV_HEADS.get(architecture, heads)),
        head_dim=int(hf.get("head_dim") or (128 if architecture == "qwen3" else hidden // max(heads, 1))),
        rms_norm_eps=float(hf.get("rms_norm_eps", 1e-6)),
        rope_theta=float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0),
        max_position_embeddings=int(hf.get("max_position_embeddings") or _DEFAULT_CONTEXT[architecture]),
        tie_word_embeddings=bool(hf.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        sliding_window=_sliding_window(hf, architecture),
        rope_scaling=_scaling_from_hf(rope, source),
    )
    _check_divisions(config, source)
    return ParsedConfig(config)


def _check_divisions(config: DecoderConfig, source: str) -> None:
    counts = (config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim)
    if min(counts) < 1 or config.vocab_size < 1 or config.num_heads % config.num_kv_heads or config.head_dim % 2:
        raise ModelError(
            f"config.json of {source} describes no possible model: {config.num_heads} query heads, "
            f"{config.num_kv_heads} key/value heads of size {config.head_dim}, {config.num_layers} layers, "
            f"vocabulary {config.vocab_size}; query heads must be a multiple of key/value heads and the head size "
            "even. Download the model again"
        )


def _sliding_window(hf: Mapping[str, Any], architecture: str) -> int | None:
    if architecture == "mistral":
        window = hf.get("sliding_window", _MISTRAL_DEFAULT_WINDOW)
    elif architecture in ("qwen2", "qwen3") and hf.get("use_sliding_window", False):
        window = hf.get("sliding_window", 4096)
    else:
        window = None
    return None if window is None else int(window)


def _rope_values(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The scaling keys, whichever of the two places they are written in (`rope_parameters` first)."""
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(hf.get(key), Mapping):
            return cast(Mapping[str, Any], hf[key])
    return {}


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _scaling_from_hf(rope: Mapping[str, Any], source: str) -> Llama3RopeScaling | None:
    kind = _rope_type(rope)
    if kind == "default":
        return None
    if kind != "llama3":
        known = ", ".join(("default", "llama3", *ROPE_TYPES_OF_TRANSFORMERS))
        raise ModelError(
            f"config.json of {source} asks for rope scaling {kind!r}, which neither this decoder nor transformers is "
            f"known to compute; known are {known}. Correct `rope_type` or use another model"
        )
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [key for key in keys if rope.get(key) is None]
    if missing:
        raise ModelError(
            f"config.json of {source} asks for llama3 rope scaling but lacks {', '.join(missing)}; "
            "download the model again"
        )
    return Llama3RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_position_embeddings=int(rope["original_max_position_embeddings"]),
    )


def _scaling_to_hf(scaling: Llama3RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }
