"""What the stages of the GPU check work on: shapes, random weights, rows of tokens, and a clock.

Weights are random, of real shapes, so that no model has to be there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import expected_shapes
from rethink.model.decoder.packing import PackedBatch, PackedGroup

QWEN3_06B = DecoderConfig(
    "qwen3", 151_936, 1024, 3072, 28, 16, 8, 128, 1e-6, 1e6, 40_960, tie_word_embeddings=True, qk_norm=True
)
"""The shape of Qwen3-0.6B (its `config.json`)."""
SMALL = DecoderConfig("qwen3", 512, 64, 96, 2, 4, 2, 16, 1e-6, 1e6, 4096, tie_word_embeddings=True, qk_norm=True)
PARITY = {
    "llama": DecoderConfig("llama", 512, 128, 192, 3, 4, 2, 64, 1e-5, 1e4, 4096, False),
    "qwen2": DecoderConfig("qwen2", 512, 128, 192, 3, 4, 1, 32, 1e-6, 1e6, 4096, True, qkv_bias=True),
    "qwen3": DecoderConfig("qwen3", 512, 128, 192, 3, 8, 8, 16, 1e-6, 1e6, 4096, True, qk_norm=True),
}
"""Shapes whose values are compared with the CPU's."""


@dataclass(frozen=True, slots=True)
class Job:
    """Where a stage computes, and how much."""

    device: str
    """`cuda`, or `cpu` to try the check itself."""
    small: bool = False
    """Little work, on a small shape."""

    @property
    def shape(self) -> DecoderConfig:
        """Of the model whose speed is measured."""
        return SMALL if self.small else QWEN3_06B

    @property
    def dtype(self) -> torch.dtype:
        """Of the model whose speed is measured."""
        return torch.float32 if self.small else torch.bfloat16

    def sync(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """The shortest of several times, after one that does not count."""
        times = []
        for _ in range(repeats + 1):
            self.sync()
            started = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    def peak_gib(self) -> float:
        """Most memory of the device that was taken since the stage began; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0.0


def random_decoder(
    config: DecoderConfig, dtype: torch.dtype, device: str, seed: int = 0, spread: float = 0.05
) -> Decoder:
    """A decoder whose weights are a function of shape and seed alone: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, size in expected_shapes(config).items():
        value = torch.randn(size, generator=generator) * spread
        tensors[name] = value + 1 if name.endswith("norm.weight") else value
    return Decoder(config, tensors, dtype, device)


def random_groups(
    config: DecoderConfig, prompts: int, completions: int, prompt_tokens: int, new_tokens: int
) -> list[PackedGroup]:
    """Prompts with a shared first half, and their completions."""
    dice = random.Random(0)

    def ids(size: int) -> list[int]:
        return [dice.randrange(config.vocab_size) for _ in range(size)]

    shared = ids(prompt_tokens // 2)
    return [
        PackedGroup([*shared, *ids(prompt_tokens - len(shared))], [ids(new_tokens) for _ in range(completions)])
        for _ in range(prompts)
    ]


def operations(config: DecoderConfig, batch: PackedBatch) -> float:
    """Necessary operations of a forward and backward pass without attention: 6 a weight and token that meets it."""
    matrices = {name: size for name, size in expected_shapes(config).items() if len(size) == 2}
    head = config.vocab_size * config.hidden_size
    blocks = sum(size[0] * size[1] for name, size in matrices.items() if name.startswith("model.layers."))
    return 6.0 * (blocks * batch.input_tokens + head * batch.target_tokens)


def relative(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm of what is wanted."""
    wanted = wanted.double().cpu()
    return float((found.double().cpu() - wanted).norm() / wanted.norm().clamp(min=1e-30))
