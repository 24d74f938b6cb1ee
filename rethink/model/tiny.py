"""`tiny-random`: a Llama of two layers with random weights and the embedded model's tokenizer, for trying recipes out.

It knows nothing, and everything about it is quick: a pipeline on it shows in minutes whether the stages fit together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rethink.model.decoder.hf_config import expected_shapes, parse_hf_config
from rethink.model.saving import save_hf_folder
from rethink.model.tokenizer.tokenizer import Tokenizer

TINY = "tiny-random"
SEED = 0
STD = 0.1
"""Of the weights: large enough that sampled tokens differ, small enough that no token wins."""


def tiny_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Content of `config.json`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }


def write_tiny(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the model; the same weights on every machine.

    Raises:
        StorageFailure: the disk is full or the folder cannot be written.
    """
    import torch

    hf_config = tiny_config(tokenizer)
    parsed = parse_hf_config(hf_config, TINY).config
    assert parsed is not None
    generator = torch.Generator().manual_seed(SEED)
    tensors = {
        name: torch.ones(shape) if len(shape) == 1 else STD * torch.randn(shape, generator=generator)
        for name, shape in sorted(expected_shapes(parsed).items())
    }
    save_hf_folder(folder, tensors, hf_config, tokenizer)
