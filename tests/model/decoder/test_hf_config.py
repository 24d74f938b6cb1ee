"""`config.json` to `DecoderConfig` and back, in the spellings of transformers 4 and 5."""

from typing import Any

import pytest

from rethink.errors import ModelError
from rethink.model.decoder.config import DecoderConfig, Llama3RopeScaling
from rethink.model.decoder.hf_config import parse_hf_config, to_hf_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
}
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def parse(**changes: Any) -> DecoderConfig:
    parsed = parse_hf_config(LLAMA | changes, "here")
    assert parsed.config is not None, parsed.reason
    return parsed.config


def test_every_field_is_read() -> None:
    config = parse(rope_scaling=SCALING, tie_word_embeddings=True)
    assert config == DecoderConfig(
        architecture="llama",
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_layers=2,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope_theta=5e5,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_scaling=Llama3RopeScaling(8.0, 1.0, 4.0, 64),
    )


def test_both_spellings_of_rope_mean_the_same() -> None:
    without = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    new = parse_hf_config(without | {"rope_parameters": SCALING | {"rope_theta": 5e5}}, "here").config
    assert new == parse(rope_scaling=SCALING)
    assert parse_hf_config(without | {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "").config == (
        parse(rope_theta=7.0)
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("window", [None, 128])
def test_back_and_forth_keeps_everything(architecture: str, scaled: bool, window: int | None) -> None:
    changes: dict[str, Any] = {
        "model_type": architecture,
        "head_dim": 24,
        "rope_scaling": SCALING if scaled else None,
        "max_window_layers": 0,
    }
    changes |= {"sliding_window": window, "use_sliding_window": window is not None}
    config = parse(**changes)
    assert parse_hf_config(to_hf_config(config), "here").config == config
    assert config.sliding_window == (None if architecture == "llama" else window)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_transformers_reads_what_is_written_and_its_defaults_are_ours(architecture: str) -> None:
    from transformers import AutoConfig

    written = to_hf_config(parse(model_type=architecture, head_dim=24, rope_scaling=SCALING))
    theirs = AutoConfig.for_model(**written).to_dict()
    assert parse_hf_config(theirs, "here").config == parse_hf_config(written, "here").config
    bare = {key: LLAMA[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    bare |= {"model_type": architecture, "num_attention_heads": 32}
    defaults = AutoConfig.for_model(**bare).to_dict()
    assert parse_hf_config(bare, "here").config == parse_hf_config(defaults, "here").config


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma3"}, "gemma3"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "differ between layers"),
    ],
)
def test_what_the_decoder_does_not_compute_goes_to_transformers(changes: dict[str, Any], named: str) -> None:
    parsed = parse_hf_config(LLAMA | changes, "here")
    assert parsed.config is None
    assert parsed.reason is not None
    assert named in parsed.reason


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size.*whole number"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "spiral"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
    ],
)
def test_unusable_values_are_refused_with_their_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        parse_hf_config(LLAMA | changes, "here")
