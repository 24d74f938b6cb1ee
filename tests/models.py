"""Tiny models with random weights, for all tests: shapes, one maker, and what engines ask of a fake tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import parse_hf_config
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.types import Completion

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""The shape of every tiny model, in the names of most configurations of `transformers`."""
NEOX_SHAPE = {key: value for key, value in SHAPE.items() if key not in ("num_key_value_heads", "head_dim")}
GPT2_SHAPE = {"n_embd": 32, "n_layer": 2, "n_head": 4}


def llama3_rope(theta: float = 100.0) -> dict[str, Any]:
    """Llama 3's rope scaling. With the default base, frequencies fall below, above and between its two bounds."""
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }


def matrices_and_biases(name: str, parameter: torch.Tensor) -> float | None:
    """For `tiny_model`: weights of norms stay as they are, so that no signal dies."""
    return 0.0 if parameter.ndim > 1 or "bias" in name else None


def norms_around_one(name: str, parameter: torch.Tensor) -> float | None:
    """For `tiny_model`: norms are random too, so that none can be mixed up."""
    return 1.0 if "norm" in name else 0.0


def tiny_model(
    family: str,
    *,
    seed: int,
    std: float = 0.2,
    mean: Callable[[str, torch.Tensor], float | None] = norms_around_one,
    **values: Any,
) -> Any:
    """A model of `transformers` from `{family}Config(**values)`; `mean` of a parameter's values, None leaves them."""
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**values))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        centre = mean(name, parameter)
        if centre is not None:
            torch.nn.init.normal_(parameter, mean=centre, std=std)
    return model.eval()


def save_tiny(folder: Path, tokenizer: Tokenizer, architecture: str, shard: str = "5GB", **overrides: Any) -> Path:
    """A folder that `transformers` saved: random weights of a family, with a small tokenizer."""
    classes = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}
    values = SHAPE | {
        "vocab_size": tokenizer.vocab_size + 7,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }
    config = getattr(transformers, f"{classes[architecture]}Config")(**(values | overrides))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # norms and biases too, so that none can be mixed up
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save(folder)
    return folder


def decoder_of(model: Any, dtype: torch.dtype = torch.float32) -> Decoder:
    """Our decoder with copies of a model's weights."""
    config = parse_hf_config(model.config.to_dict(), "test").config
    assert config is not None
    return Decoder(config, {name: tensor.clone() for name, tensor in model.state_dict().items()}, dtype)


def spell(ids: Sequence[int]) -> str:
    """One token, one or two letters: a, b, …, z, aa, ab, …"""
    return "".join(("" if i < 26 else chr(96 + i // 26)) + chr(97 + i % 26) for i in ids)


def some_prompt(size: int, vocabulary: int, seed: int = 0, first: int = 0) -> tuple[int, ...]:
    """Random ids from `first` on."""
    generator = torch.Generator().manual_seed(1000 * size + seed)
    return tuple(torch.randint(first, vocabulary, (size,), generator=generator).tolist())


def tokens_of(results: list[list[Completion]]) -> list[list[list[int]]]:
    """Only the token ids."""
    return [[c.token_ids.tolist() for c in samples] for samples in results]
