"""Hugging Face `config.json` to `DecoderConfig` and back.

The keys, their defaults and which of two wins are those of `transformers` 5: LlamaConfig, Qwen2Config, Qwen3Config and
MistralConfig. Version 5 writes `rope_parameters` where earlier ones wrote `rope_theta` and `rope_scaling`; both are
read. What the decoder cannot compute exactly is never approximated: it is handed on to `transformers`, with the
reason. What neither computes is refused, and fields that nothing reads are named (`hf_fields.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from rethink.errors import ModelError
from rethink.model.decoder.config import Architecture, DecoderConfig, Llama3RopeScaling, check_shape
from rethink.model.decoder.hf_fields import Fields, check_fields

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
_DEFAULT_WINDOW, _DEFAULT_MAX_WINDOW_LAYERS = 4096, 28
_SLIDING = "sliding_attention"


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
    fields = Fields(hf, f"config.json of {source}")
    rope = _rope_values(fields)
    reason = _outside_the_family(fields, rope.values, model_type)
    if reason is not None:
        return ParsedConfig(None, reason)
    config = _parse_family(fields, rope, cast(Architecture, model_type))
    check_fields(fields, rope, config)
    return ParsedConfig(config)


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


def _outside_the_family(fields: Fields, rope: Mapping[str, Any], model_type: str) -> str | None:
    """Why the decoder would compute this model wrongly; None when it would not."""
    hf = fields.values
    if hf.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"activation {hf['hidden_act']!r} instead of silu"
    if hf.get("mlp_bias"):
        return "biases in the feed-forward layers (mlp_bias)"
    if model_type != "qwen2" and hf.get("attention_bias"):
        return "biases in the attention layers (attention_bias)"
    kinds = set(fields.texts("layer_types") or ()) - {"full_attention", _SLIDING}
    if kinds:
        return f"layers of type {', '.join(sorted(kinds))}"
    if hf.get("per_layer_config"):
        return "layers that differ from one another (per_layer_config)"
    if rope.get("partial_rotary_factor", hf.get("partial_rotary_factor", 1.0)) not in (None, 1.0, 1):
        return "rotary embedding on a part of each head (partial_rotary_factor)"
    if any(isinstance(value, Mapping) for value in rope.values()):
        return "rotary parameters that differ between layers"
    kind = _rope_type(rope)
    return f"rope scaling {kind!r}" if kind in ROPE_TYPES_OF_TRANSFORMERS else None


def _parse_family(fields: Fields, rope: Fields, architecture: Architecture) -> DecoderConfig:
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    layers = fields.integer("num_hidden_layers")
    head_dim = 128 if architecture == "qwen3" else hidden // max(heads, 1)
    kv_heads = heads  # what null means; where the key is missing, some families have a number of their own
    if "num_key_value_heads" not in fields.values:
        kv_heads = _DEFAULT_KV_HEADS.get(architecture, heads)
    config = DecoderConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", kv_heads),
        head_dim=fields.integer("head_dim", head_dim),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(fields, rope),
        max_position_embeddings=fields.integer("max_position_embeddings", _DEFAULT_CONTEXT[architecture]),
        tie_word_embeddings=fields.boolean("tie_word_embeddings"),
        qkv_bias=architecture == "qwen2",
        qk_norm=architecture == "qwen3",
        sliding_window=_sliding_window(fields, architecture, layers),
        rope_scaling=None,
    )
    config = replace(config, rope_scaling=_scaling_from_hf(fields, rope, config.max_position_embeddings))
    check_shape(config, fields.source)
    return config


def _sliding_window(fields: Fields, architecture: str, layers: int) -> int | None:
    """The width of the layers that slide; None where none does."""
    if architecture == "mistral":
        missing = "sliding_window" not in fields.values
        return fields.integer("sliding_window", _DEFAULT_WINDOW) if missing or fields.given("sliding_window") else None
    if architecture == "llama":
        return None
    kinds = fields.texts("layer_types")
    if not fields.boolean("use_sliding_window"):
        if kinds is not None and _SLIDING in kinds:
            raise fields.bad("use_sliding_window", "true, since `layer_types` has layers that slide")
        return None
    if "sliding_window" in fields.values and not fields.given("sliding_window"):
        return None
    slide = layers > fields.integer("max_window_layers", _DEFAULT_MAX_WINDOW_LAYERS) if kinds is None else None
    return fields.integer("sliding_window", _DEFAULT_WINDOW) if slide or (kinds and _SLIDING in kinds) else None


def _rope_values(fields: Fields) -> Fields:
    """The rotary keys, whichever of the two places they are written in; as in `transformers`, `rope_scaling` wins."""
    for key in ("rope_scaling", "rope_parameters"):
        value = fields.values.get(key)
        if value:
            if not isinstance(value, Mapping):
                raise fields.bad(key, "an object")
            return Fields(value, f"`{key}` in {fields.source}")
    return Fields({}, fields.source)


def _rope_theta(fields: Fields, rope: Fields) -> float:
    holder = rope if "rope_theta" in rope.values else fields
    return holder.number("rope_theta") if "rope_theta" in holder.values else 10000.0


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _scaling_from_hf(fields: Fields, rope: Fields, context: int) -> Llama3RopeScaling | None:
    kind = _rope_type(rope.values)
    if kind == "default":
        return None
    if kind != "llama3":
        known = ", ".join(("default", "llama3", *ROPE_TYPES_OF_TRANSFORMERS))
        raise ModelError(
            f"{fields.source} asks for rope scaling {kind!r}, which neither this decoder nor transformers is "
            f"known to compute; known are {known}. Correct `rope_type` or use another model"
        )
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    missing = [key for key in keys if rope.values.get(key) is None]
    if missing:
        raise ModelError(
            f"{fields.source} asks for llama3 rope scaling but lacks {', '.join(missing)}; download the model again"
        )
    # As in transformers: the top level wins, and where neither place has it, the context is meant.
    original = "original_max_position_embeddings"
    scaling = Llama3RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position_embeddings=(fields if original in fields.values else rope).integer(
            original, None if original in fields.values else context
        ),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise rope.bad("high_freq_factor", "more than low_freq_factor")
    return scaling


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
