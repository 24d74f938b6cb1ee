"""Models whose weights are sharded over trainer ranks by torch's FSDP2, with the methods of whole ones.

    forward and backward of a layer:  gather its weights from all ranks ─► compute ─► drop them
    after its backward:               sum its gradient over the ranks; each keeps the part of its own shard

Shards are fp32; weights are gathered in the compute dtype, and gradients are summed in fp32. FSDP gathers a layer's
weights in one dtype, so those that a bf16 model keeps in fp32 (the decoder's norms, a few thousand numbers) are whole
on every rank.

Each pass (a forward and its backward) exchanges with all ranks, so every rank must make equally many: `pad`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from rethink.kernels.attention import TreeLayout
from rethink.kernels.head import TokenObjective
from rethink.model.decoder.decoder import Decoder, Layer
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.model.transformers_model import TransformersModel

PADDING = PackedGroup([0], [[0]])
"""What a pass computes whose rank has nothing left: one token."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """Where shards are and how they are exchanged."""

    mesh: DeviceMesh
    """One dimension: the ranks."""
    device: torch.device
    recompute: bool
    """Keep only each layer's input for the backward pass, and compute the layer again there."""
    exchange: Callable[[str], AbstractContextManager[None]]
    """Around whatever waits for other ranks, which it names: turns broken connections into lost ranks."""


class ShardedDecoder:
    """A `Decoder` in shards. A loss that it returns has had its backward pass.

    Args:
        decoder: its shape; the weights are not read.
        sharding: where the shards are.
    """

    def __init__(self, decoder: Decoder, sharding: Sharding):
        self.dtype, self.device, self.passes = decoder.dtype, sharding.device, 0
        module = _DecoderModule(decoder)
        whole = {name for name, weight in decoder.named_parameters() if weight.dtype != decoder.dtype}
        self.module = _shard(module, module.layers, whole, decoder.dtype, sharding)
        self._exchange = sharding.exchange

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
        """See `LanguageModel`. The gradients are in the shards when this returns."""

        def call(decoder: Decoder) -> tuple[Tensor, Tensor, Tensor]:
            return decoder.completion_loss(
                batch, objective, temperature, whole=whole, together=together, bonus_C=bonus_C
            )

        with self._exchange("a pass over the layers"):
            loss, logprobs_C, entropies_C = self.module(call)
            loss.backward()
        self.passes += 1
        return loss.detach().requires_grad_(), logprobs_C, entropies_C

    def passes_of(self, sequences: Sequence[int]) -> int:
        """Passes over micro-batches that have so many sequences each."""
        return len(sequences)


class ShardedTransformers(TransformersModel):
    """A `TransformersModel` in shards. A loss that it returns has had its backward passes, one a sequence.

    Args:
        model: its shape; the weights are not read.
        sharding: where the shards are.
    """

    def __init__(self, model: TransformersModel, sharding: Sharding):
        vars(self).update(vars(model))
        self.device, self.passes = sharding.device, 0
        weights = dict(model.module.named_parameters())
        module = copy.deepcopy(model.module, {id(weight): _empty(weight) for weight in weights.values()})
        whole = {name for name, weight in weights.items() if weight.dtype != model.dtype}
        names = set(getattr(module, "_no_split_modules", None) or ())
        layers = [part for part in module.modules() if type(part).__name__ in names]
        self.module = _shard(module, layers, whole, model.dtype, sharding)
        self._exchange = sharding.exchange

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
        """See `LanguageModel`. The gradients are in the shards when this returns."""
        with self._exchange("a pass over the layers"):
            return super().completion_loss(
                batch, objective, temperature, whole=whole, together=together, bonus_C=bonus_C
            )

    def _backward(
        self, logits_NV: Tensor, gradient_NV: Tensor, parameters: list[Tensor], sums: list[Tensor | None]
    ) -> None:
        logits_NV.backward(gradient_NV)  # into the shards; the sums stay empty
        self.passes += 1

    def passes_of(self, sequences: Sequence[int]) -> int:
        """Passes over micro-batches that have so many sequences each."""
        return sum(sequences)


def sharded(model: LanguageModel, sharding: Sharding) -> ShardedDecoder | ShardedTransformers:
    """A model of this one's shape in shards, whose weights are not set yet."""
    if isinstance(model, TransformersModel):
        return ShardedTransformers(model, sharding)
    assert isinstance(model, Decoder), "the only other model of language"
    return ShardedDecoder(model, sharding)


def whole_weights(model: LanguageModel) -> dict[str, Tensor]:
    """All weights of a whole model under the names that its sharded twin has them by, frozen ones too."""
    named: Iterator[tuple[str, Tensor]]
    named = model.module.named_parameters() if isinstance(model, TransformersModel) else model.named_parameters()
    return dict(named)


def pad(model: ShardedDecoder | ShardedTransformers, passes: int) -> None:
    """Bring the passes since the last call to so many, by passes that add nothing to any gradient."""
    while model.passes < passes:
        model.completion_loss(pack([PADDING], model.device), lambda logprobs_C, part: 0.0 * logprobs_C.sum())
    model.passes = 0


class _LayerModule(nn.Module):
    """A layer's weights, with the fields of `Layer`; called with what is to be computed of them."""

    def __init__(self, layer: Layer):
        super().__init__()
        for name in Layer.__slots__:
            weight = getattr(layer, name)
            self.register_parameter(name, None if weight is None else _empty(weight))

    def forward(self, x_TE: Tensor, compute: Callable[[Any, Tensor], Tensor]) -> Tensor:
        return compute(self, x_TE)


class _Gathered(Decoder):
    """The computation of a decoder whose layers are modules: FSDP gathers their weights while they are called."""

    def __init__(self, decoder: Decoder, layers: list[Any]):
        nothing = torch.empty(0)
        weights = {"embedding": nothing, "final_norm": nothing, "head": nothing, "layers": layers}
        vars(self).update(vars(decoder) | weights)

    def through(self, layer: Any, x_TE: Tensor, rope: tuple[Tensor, Tensor], layout: TreeLayout) -> Tensor:
        def compute(weights: Any, x_TE: Tensor) -> Tensor:
            return Decoder.through(self, weights, x_TE, rope, layout)

        found: Tensor = layer(x_TE, compute)
        return found


class _DecoderModule(nn.Module):
    """A decoder's weights; called with what is to be computed of them, loss included, since the head is among them."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.embedding, self.final_norm = _empty(decoder.embedding), _empty(decoder.final_norm)
        self.register_parameter("head", None if decoder.head is decoder.embedding else _empty(decoder.head))
        self.layers = nn.ModuleList(_LayerModule(layer) for layer in decoder.layers)
        self.head: nn.Parameter | None
        self.decoder = _Gathered(decoder, list(self.layers))

    def forward(self, call: Callable[[Decoder], Any]) -> Any:
        decoder = self.decoder
        decoder.embedding, decoder.final_norm = self.embedding, self.final_norm
        decoder.head = self.embedding if self.head is None else self.head
        return call(decoder)


def _empty(weight: Tensor) -> nn.Parameter:
    """A parameter of this shape, fp32 or better, without memory."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return nn.Parameter(torch.empty(weight.shape, dtype=dtype, device="meta"), requires_grad=weight.requires_grad)


def _shard(module: nn.Module, layers: Iterable[Any], whole: set[str], dtype: torch.dtype, sharding: Sharding) -> Any:
    """The module in shards, layer by layer and the rest as one, with memory; `whole` names what is not sharded."""
    accurate = torch.promote_types(dtype, torch.float32)
    # Left to itself, FSDP casts what a layer is given too: the residual stream, which stays fp32.
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == accurate else dtype, reduce_dtype=accurate, cast_forward_inputs=False
    )
    kept = {weight for name, weight in module.named_parameters() if name in whole}
    parts: list[Any] = [*layers, module]
    for part in parts:
        if sharding.recompute and part is not module:
            part.forward = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)
        fully_shard(part, mesh=sharding.mesh, mp_policy=policy, ignored_params=kept)
        # Weights of a loss already hold its denominators: gradients are summed. gloo has no scaled sum.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
        if hasattr(part, "set_reduce_scatter_unused_params"):  # torch 2.13: experts that only some ranks' tokens reach
            part.set_reduce_scatter_unused_params(True)
    module._apply(lambda x: torch.empty_like(x, device=sharding.device) if x.device.type == "meta" else x)
    return module
