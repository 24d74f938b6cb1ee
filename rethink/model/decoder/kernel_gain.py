"""What native kernels gain on this machine: a small decoder's forward and backward pass, with and without them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.kernels.native.library import native, using
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack

SHAPE = DecoderConfig(
    architecture="llama",
    vocab_size=4096,
    hidden_size=384,
    intermediate_size=1024,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=64,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    max_position_embeddings=256,
    tie_word_embeddings=True,
)
SECONDS = 0.7
"""Beside the first, untimed pass of either kind."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The fastest pass of each kind."""

    dtype: str
    native_s: float
    reference_s: float

    @property
    def ratio(self) -> float:
        """How many times faster native kernels are."""
        return self.reference_s / self.native_s


def kernel_gain(dtype: torch.dtype) -> Gain | None:
    """Measure it, whatever `RETHINK_KERNELS` says; None where there are no native kernels. Takes about a second."""
    with using("auto"):
        if native() is None:
            return None
    model, batch = _decoder(dtype), _batch()
    best = dict.fromkeys(("auto", "reference"), float("inf"))
    for choice in best:  # the first pass touches memory and lets libraries choose their algorithms
        _timed(choice, model, batch)
    deadline = time.perf_counter() + SECONDS
    while True:
        for choice in best:  # in turns, so that a busy moment hurts both
            best[choice] = min(best[choice], _timed(choice, model, batch))
        if time.perf_counter() > deadline:
            return Gain(str(dtype).removeprefix("torch."), best["auto"], best["reference"])


def _timed(choice: str, model: Decoder, batch: PackedBatch) -> float:
    objective: Callable[[Tensor, slice], Tensor] = lambda logprobs, _: logprobs.sum()  # noqa: E731
    with using(choice):
        started = time.perf_counter()
        model.completion_loss(batch, objective)[0].backward()
        seconds = time.perf_counter() - started
    for _, parameter in model.named_parameters():
        parameter.grad = None
    return seconds


def _decoder(dtype: torch.dtype) -> Decoder:
    c, generator = SHAPE, torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * 0.02

    tensors = {
        "model.embed_tokens.weight": matrix(c.vocab_size, c.hidden_size),
        "model.norm.weight": torch.ones(c.hidden_size),
    }
    for i in range(c.num_layers):
        name = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}{norm}.weight"] = torch.ones(c.hidden_size)
        for part, heads in (("q", c.num_heads), ("k", c.num_kv_heads), ("v", c.num_kv_heads)):
            tensors[f"{name}self_attn.{part}_proj.weight"] = matrix(heads * c.head_dim, c.hidden_size)
        tensors[f"{name}self_attn.o_proj.weight"] = matrix(c.hidden_size, c.num_heads * c.head_dim)
        for part in ("gate", "up"):
            tensors[f"{name}mlp.{part}_proj.weight"] = matrix(c.intermediate_size, c.hidden_size)
        tensors[f"{name}mlp.down_proj.weight"] = matrix(c.hidden_size, c.intermediate_size)
    return Decoder(c, tensors, dtype)


def _batch() -> PackedBatch:
    """Four prompts of sixty tokens with four completions of twenty to forty each."""
    dice = random.Random(0)

    def ids(size: int) -> list[int]:
        return [dice.randrange(SHAPE.vocab_size) for _ in range(size)]

    return pack([PackedGroup(ids(60), [ids(dice.randrange(20, 41)) for _ in range(4)]) for _ in range(4)])
