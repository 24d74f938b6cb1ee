"""The decoder: Llama, Qwen2/2.5, Qwen3 and Mistral are one family (RMSNorm, RoPE, GQA, SwiGLU).

It computes packed rows (see `packing.py`) for training and prefill; `rollout/decoding.py` decodes with the same
weights. The residual stream is fp32 whatever the compute dtype; norms keep fp32 weights.

Axes: T packed tokens, C target tokens, E hidden size, H query heads, K key/value heads, D head size, L layers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.errors import ModelError
from rethink.kernels.attention import TreeLayout, tree_attention
from rethink.kernels.elementwise import rms_norm, rotate, swiglu
from rethink.kernels.embedding import embed
from rethink.kernels.head import Extra, TokenObjective, head_loss, token_logprobs
from rethink.kernels.linear import linear
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.packing import PackedBatch


@dataclass(slots=True)
class Layer:
    """One decoder layer; query/key/value and gate/up projections are fused row-wise."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """Weights and forward passes. Parameters are leaf tensors that require gradients.

    Args:
        config: shape of the model.
        tensors: Hugging Face names to tensors (any float dtype).
        dtype: compute dtype of the matrices (bf16, fp32, fp64).

    The weights are copies: training changes no file mapping and no tensor of the caller's.
    """

    def __init__(
        self,
        config: DecoderConfig,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ):
        self.config = config
        self.dtype = dtype
        self.device = torch.device(device)
        self.accurate = torch.promote_types(dtype, torch.float32)

        def take(name: str) -> Tensor:
            return _take(tensors, name).to(self.device, dtype, copy=True).contiguous()

        def norm(name: str) -> Tensor:
            return _take(tensors, name).to(self.device, self.accurate, copy=True)

        self.embedding = take("model.embed_tokens.weight")
        self.layers = [_build_layer(config, f"model.layers.{i}.", take, norm) for i in range(config.num_layers)]
        self.final_norm = norm("model.norm.weight")
        self.head = self.embedding if config.tie_word_embeddings else take("lm_head.weight")
        self._cos, self._sin = _rope_table(config, 0, self.accurate, self.device)
        for _, parameter in self.named_parameters():
            parameter.requires_grad_()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Fused parameters by name, in a fixed order; a tied head appears once, as the embedding."""
        yield "embedding", self.embedding
        for i, layer in enumerate(self.layers):
            for name in Layer.__slots__:
                value = getattr(layer, name)
                if value is not None:
                    yield f"layers.{i}.{name}", value
        yield "final_norm", self.final_norm
        if self.head is not self.embedding:
            yield "head", self.head

    def rope(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, D] of positions; raises ModelError past the model's context."""
        needed = int(positions_T.max()) + 1 if positions_T.numel() else 0
        if needed > self.config.max_position_embeddings:
            raise ModelError(
                f"a sequence of {needed} tokens does not fit this model, whose context is "
                f"{self.config.max_position_embeddings}; shorten the prompt or lower max_new_tokens"
            )
        if needed > self._cos.shape[0]:
            size = min(max(needed, 2 * self._cos.shape[0], 512), self.config.max_position_embeddings)
            self._cos, self._sin = _rope_table(self.config, size, self.accurate, self.device)
        return self._cos[positions_T], self._sin[positions_T]

    def project_qkv(self, layer: Layer, fused: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split a fused projection [T, (H+2K)D] into rotated queries [T,H,D], rotated keys and values [T,K,D]."""
        c = self.config
        q, k, v = fused.split([c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim], -1)
        if layer.q_norm is None:  # queries and keys are adjacent: one rotation serves both
            both = fused[..., : q.shape[-1] + k.shape[-1]].view(-1, c.num_heads + c.num_kv_heads, c.head_dim)
            q, k = rotate(both, cos_TD, sin_TD).split([c.num_heads, c.num_kv_heads], dim=1)
            return q, k, v.view(-1, c.num_kv_heads, c.head_dim)
        q, k = q.view(-1, c.num_heads, c.head_dim), k.view(-1, c.num_kv_heads, c.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = (
                rms_norm(x.to(self.accurate).reshape(-1, c.head_dim), norm, c.rms_norm_eps, self.dtype).view(x.shape)
                for x, norm in ((q, layer.q_norm), (k, layer.k_norm))
            )
        return rotate(q, cos_TD, sin_TD), rotate(k, cos_TD, sin_TD), v.view(-1, c.num_kv_heads, c.head_dim)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """Final hidden states (normed, compute dtype) [T, E] of a packed row."""
        c = self.config
        window = c.sliding_window
        if window is not None and batch.positions_T.numel() and int(batch.positions_T.max()) >= window:
            raise ModelError(
                f"this model attends to a sliding window of {window} tokens and the sequence is longer; "
                "this decoder computes full attention only, so keep prompt and completion within the window"
            )
        rope = self.rope(batch.positions_T)
        x = embed(batch.tokens_T, self.embedding, self.accurate)
        for layer in self.layers:
            x = self.through(layer, x, rope, batch.layout)
        return rms_norm(x, self.final_norm, c.rms_norm_eps, self.dtype)

    def through(self, layer: Layer, x_TE: Tensor, rope: tuple[Tensor, Tensor], layout: TreeLayout) -> Tensor:
        """The residual stream [T, E] behind a layer."""
        c = self.config
        h = rms_norm(x_TE, layer.input_norm, c.rms_norm_eps, self.dtype)
        q, k, v = self.project_qkv(layer, linear(h, layer.qkv, layer.qkv_bias), *rope)
        attended = tree_attention(q, k, v, layout)
        x_TE = linear(attended.reshape(-1, c.num_heads * c.head_dim), layer.output, residual_TO=x_TE)
        h = rms_norm(x_TE, layer.post_norm, c.rms_norm_eps, self.dtype)
        return linear(swiglu(linear(h, layer.gate_up)), layer.down, residual_TO=x_TE)

    def completion_logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [C] of the completions' tokens, without a graph."""
        with torch.no_grad():
            hidden = self.hidden(batch).index_select(0, batch.head_rows_C)
            return token_logprobs(hidden, self.head, batch.targets_C, temperature, batch.cut)

    def completion_loss(
        self,
        batch: PackedBatch,
        objective: TokenObjective,
        temperature: float = 1.0,
        *,
        whole: bool = False,
        together: bool = False,
        bonus_C: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the completions' tokens (see `head_loss`) with a graph; log-probabilities and entropies [C]."""
        hidden = self.hidden(batch).index_select(0, batch.head_rows_C)
        extra = Extra(bonus_C, batch.cut)
        return head_loss(hidden, self.head, batch.targets_C, objective, temperature, whole or together, extra)

    def logits(self, batch: PackedBatch) -> Tensor:
        """All logits [T, V]: for tests and small inputs, since this is V wide."""
        with torch.no_grad():
            return (self.hidden(batch) @ self.head.t()).to(self.accurate)

    def clone(self) -> Decoder:
        """A copy with weights of its own that need no gradients: a reference model."""
        twin = copy.copy(self)
        twin.layers = [copy.copy(layer) for layer in self.layers]
        for name, parameter in self.named_parameters():
            twin._set(name, parameter.detach().clone())
        return twin

    def _set(self, name: str, value: Tensor) -> None:
        if name.startswith("layers."):
            _, index, field = name.split(".")
            setattr(self.layers[int(index)], field, value)
            return
        if name == "embedding" and self.head is self.embedding:
            self.head = value
        setattr(self, name, value)

    def hf_tensors(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Weights under Hugging Face names; `values` replaces the parameters (e.g. by fp32 masters)."""
        source = dict(self.named_parameters()) if values is None else values
        out = {"model.embed_tokens.weight": source["embedding"], "model.norm.weight": source["final_norm"]}
        for i in range(self.config.num_layers):
            out.update(_split_layer(self.config, source, i))
        if not self.config.tie_word_embeddings:
            out["lm_head.weight"] = source["head"]
        return {name: tensor.detach() for name, tensor in out.items()}


def _take(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ModelError(f"the checkpoint has no tensor {name!r}; it is incomplete or of another architecture")
    return tensors[name]


def _build_layer(
    config: DecoderConfig, prefix: str, matrix: Callable[[str], Tensor], vector: Callable[[str], Tensor]
) -> Layer:
    def fuse(suffix: str, *names: str) -> Tensor:
        return torch.cat([matrix(f"{prefix}{name}.{suffix}") for name in names])

    projections = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    return Layer(
        input_norm=vector(f"{prefix}input_layernorm.weight"),
        qkv=fuse("weight", *projections),
        qkv_bias=fuse("bias", *projections) if config.qkv_bias else None,
        q_norm=vector(f"{prefix}self_attn.q_norm.weight") if config.qk_norm else None,
        k_norm=vector(f"{prefix}self_attn.k_norm.weight") if config.qk_norm else None,
        output=matrix(f"{prefix}self_attn.o_proj.weight"),
        post_norm=vector(f"{prefix}post_attention_layernorm.weight"),
        gate_up=fuse("weight", "mlp.gate_proj", "mlp.up_proj"),
        down=matrix(f"{prefix}mlp.down_proj.weight"),
    )


def _split_layer(config: DecoderConfig, source: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """Undo the fusion of one layer."""
    ours, theirs = f"layers.{i}.", f"model.layers.{i}."
    sizes = [config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim]
    names = {
        "input_norm": "input_layernorm",
        "post_norm": "post_attention_layernorm",
        "output": "self_attn.o_proj",
        "down": "mlp.down_proj",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
    }
    out = {f"{theirs}{hf}.weight": source[ours + own] for own, hf in names.items() if ours + own in source}
    for own, suffix in (("qkv", "weight"), ("qkv_bias", "bias")):
        if ours + own in source:
            parts = source[ours + own].split([sizes[0], sizes[1], sizes[1]])
            out.update({f"{theirs}self_attn.{n}_proj.{suffix}": part for n, part in zip("qkv", parts, strict=True)})
    gate, up = source[ours + "gate_up"].chunk(2)
    return out | {f"{theirs}mlp.gate_proj.weight": gate, f"{theirs}mlp.up_proj.weight": up}


def _rope_table(config: DecoderConfig, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [size, D]; frequencies in fp32 as Hugging Face's, scaled where Llama 3 says so."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is not None:
        # Llama 3.1: low frequencies are divided by the factor, high ones kept, those between blended.
        wavelengths = 2 * math.pi / frequencies
        turns = scaling.original_max_position_embeddings / wavelengths
        blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        blend = blend.clamp(0, 1)
        frequencies = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    angles = torch.outer(torch.arange(size, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos().to(device, dtype), angles.sin().to(device, dtype)
