"""Any causal language model that `transformers` computes: the slow, correct path for what our decoder does not cover.

Sequences are computed one at a time, prompt and completion together: no padding and no packing, so positions, windows
and states are those that the model's authors meant, whatever its architecture. Log-probabilities are made of the
model's own logits, which keeps soft caps and scales. Each sequence's gradients are made in the forward pass and added
up in fp32 (as `kernels/head.py` does within the head), so that one sequence's activations and logits exist at once.

Axes: B sequences, S tokens of a sequence, N completion tokens of a sequence, C target tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rethink.errors import ModelError, how_to_install
from rethink.kernels.head import Slopes, TokenObjective, at_once, logits_gradient
from rethink.model.decoder.packing import PackedBatch
from rethink.model.loading import Checkpoint
from rethink.model.notes import note_once
from rethink.model.safetensors_folder import check_finite

CHUNK_ROWS = 64
"""Rows whose fp32 logits exist at once."""
_ALIGNMENT = 64
"""Bytes; what torch's own CPU memory has."""


class TransformersModel:
    """`LanguageModel` around a module of `transformers`; dropout is off.

    Args:
        module: a causal language model; it is used, not copied.
        dtype: the type it computes in.
        device: where it is.
    """

    def __init__(self, module: Any, dtype: torch.dtype, device: torch.device | str = "cpu"):
        self.module = module.eval()
        self.dtype = dtype
        self.device = torch.device(device)
        self.accurate = torch.promote_types(dtype, torch.float32)
        self.context = context_of(module.config)
        """Longest sequence; without a limit in the configuration, any."""
        self._takes = frozenset(inspect.signature(module.forward).parameters)
        # The argument and the output were renamed in the course of transformers 5.
        self._cache_name = "cache" if "cache" in self._takes else "past_key_values"
        # A clone's parameters need no gradients, but keep their names.
        self._trainable = frozenset(name for name, p in module.named_parameters() if p.requires_grad)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str, *, trust_remote_code: bool = False
    ) -> TransformersModel:
        """Read the weights of a checkpoint's folder.

        Args:
            checkpoint: what `load_checkpoint` found.
            dtype: type of the weights.
            device: `cpu` or `cuda`.
            trust_remote_code: whether code in the folder may run.

        Raises:
            ModelError: `transformers` is missing, does not know the architecture, or the weights do not fit it.
        """
        module = _load_module(checkpoint, dtype, trust_remote_code).to(device)
        for name, parameter in module.named_parameters():
            check_finite(parameter, name, checkpoint.source)
            # A weight that is mapped from a file has the file's alignment; products round differently than when
            # aligned, so a clone would differ from its original in the last bits.
            if parameter.data_ptr() % _ALIGNMENT:
                parameter.data = parameter.data.clone()
        embedding = module.get_input_embeddings()
        size = getattr(embedding, "num_embeddings", None)
        if size is not None and checkpoint.tokenizer.vocab_size > size:
            raise ModelError(
                f"the tokenizer of {checkpoint.source} has {checkpoint.tokenizer.vocab_size} tokens and its model only "
                f"{size}: they belong to different models. Download both again"
            )
        return cls(module, dtype, device)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters by the module's names, in a fixed order; tied ones appear once, under their first name."""
        for name, parameter in self.module.named_parameters():
            if name in self._trainable:
                yield name, parameter

    def logits(self, ids_BS: Tensor, keep: int, *, cache: Any = None, use_cache: bool = False) -> tuple[Tensor, Any]:
        """Run the module on sequences of equal length.

        Args:
            ids_BS: token ids, without padding; with a cache, those that follow it.
            keep: number of last positions whose logits are wanted.
            cache: what an earlier call returned; extended in place.
            use_cache: whether a cache is wanted.

        Returns:
            Logits [B, keep, V]; and a `transformers.Cache` of all tokens so far, or None where none is wanted or the
            module offers none of this kind (Mamba, RWKV, older code with tuples): then compute everything again.
        """
        past = 0 if cache is None else cache.get_seq_length()
        mask = torch.ones((ids_BS.shape[0], past + ids_BS.shape[1]), dtype=torch.long, device=ids_BS.device)
        options = {"attention_mask": mask, "use_cache": use_cache, "logits_to_keep": keep, self._cache_name: cache}
        output = self.module(ids_BS, **{name: value for name, value in options.items() if name in self._takes})
        kept: Tensor = output.logits[:, -keep:]
        fresh = getattr(output, self._cache_name, None) if use_cache and self._cache_name in self._takes else None
        return kept, fresh if _holds(fresh, mask.shape[1]) else None

    def completion_logprobs(self, batch: PackedBatch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies [C] of the completions' tokens, without a graph.

        Raises:
            ModelError: a sequence is longer than the model's context.
        """
        logprobs_C, entropies_C = self._empty(batch), self._empty(batch)
        with torch.no_grad():
            for part, prompt, completion, targets in _sequences(batch):
                logits_NV = self._completion_logits(prompt, completion)[targets]
                if batch.cut is not None:
                    batch.cut.cut(logits_NV, part)
                logprobs_C[part], entropies_C[part], _ = _token_terms(logits_NV, batch.targets_C[part], temperature)
        return logprobs_C, entropies_C

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
        """Sum of the objective over sequences, with a graph; log-probabilities and entropies [C], detached.

        Each call of the objective has one completion, so that it is `whole` in any case.

        Raises:
            ModelError: a sequence is longer than the model's context.
        """
        if together:
            objective = at_once(objective, self.completion_logprobs(batch, temperature)[0])
        logprobs_C, entropies_C = self._empty(batch), self._empty(batch)
        parameters = [p for _, p in self.named_parameters()]
        sums: list[Tensor | None] = [None] * len(parameters)
        total = torch.zeros((), dtype=self.accurate, device=self.device)
        for part, prompt, completion, targets in _sequences(batch):
            targets_N = batch.targets_C[part]
            logits_NV = self._completion_logits(prompt, completion)[targets]
            values_NV = logits_NV.detach()
            if batch.cut is not None:
                values_NV = values_NV.clone()
                batch.cut.cut(values_NV, part)
            logprobs_N, entropies_C[part], lse_N = _token_terms(values_NV, targets_N, temperature)
            logprobs_C[part] = logprobs_N
            leaf = logprobs_N.clone().requires_grad_()
            value = objective(leaf, part)
            (coefficient_N,) = torch.autograd.grad(value, leaf)
            slopes = Slopes(coefficient_N, None if bonus_C is None else bonus_C[part], entropies_C[part])
            total += value.detach()
            if slopes.bonus_C is not None:
                total -= (slopes.bonus_C * slopes.entropies_C).sum()
            gradient_NV = _logits_gradient(values_NV, lse_N, targets_N, slopes, temperature)
            self._backward(logits_NV, gradient_NV, parameters, sums)
        loss: Tensor = _MadeGradients.apply(total, sums, *parameters)  # type: ignore[no-untyped-call]
        return loss, logprobs_C, entropies_C

    def _backward(
        self, logits_NV: Tensor, gradient_NV: Tensor, parameters: list[Tensor], sums: list[Tensor | None]
    ) -> None:
        """Add a sequence's gradients of the parameters to the sums."""
        made = torch.autograd.grad(logits_NV, parameters, gradient_NV, allow_unused=True)
        for i, gradient in enumerate(made):
            if gradient is not None:
                sums[i] = _add(sums[i], gradient)

    def clone(self) -> TransformersModel:
        """A copy with weights of its own that need no gradients: a reference model."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module).requires_grad_(False)
        return twin

    def hf_tensors(self, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Weights and stored buffers under the names of a checkpoint; `values` replaces the parameters.

        Of tied parameters only the first is there; `transformers` ties the others when it loads.
        """
        from transformers.core_model_loading import revert_weight_conversion

        own = dict(self.module.named_parameters())
        replaced = own if values is None else {**own, **values}
        out: dict[str, Tensor] = {}
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            if name in own:
                out[name] = replaced[name].detach()
            elif not isinstance(tensor, torch.nn.Parameter):  # a parameter that is not in `own` is tied to one that is
                out[name] = tensor.detach()
        # Some architectures are stored otherwise than they compute, e.g. with one tensor per expert.
        return dict(revert_weight_conversion(self.module, out))

    def _empty(self, batch: PackedBatch) -> Tensor:
        return torch.empty(batch.target_tokens, dtype=self.accurate, device=self.device)

    def _completion_logits(self, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
        """Logits [N, V] that predict the completion's tokens."""
        # As in packed rows, the last token is never an input, so the last N positions are the predictions.
        ids = [int(t) for t in (*prompt, *completion[:-1])]
        if len(ids) > self.context:
            raise ModelError(
                f"a sequence of {len(ids)} tokens does not fit this model, whose context is {self.context}; "
                "shorten the prompt or lower max_new_tokens"
            )
        logits_1NV, _ = self.logits(torch.tensor([ids], device=self.device), len(completion))
        return logits_1NV[0]


def context_of(config: Any) -> int:
    """Longest sequence whose positions mean the same at any length of the sequence.

    Args:
        config: a configuration of `transformers`.

    Returns:
        Number of tokens; `sys.maxsize` where the architecture sets no limit. Rope scaling of type `longrope` changes
        every position once a sequence passes the original context, so a token's log-probability would depend on what
        comes after it: there, the original context is the limit.
    """
    config = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len", "n_positions")
    limits = [int(value) for name in names if isinstance(value := getattr(config, name, None), int) and value > 0]
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *rope.values()):  # some models have them per type of layer
        if isinstance(parameters, Mapping) and parameters.get("rope_type") == "longrope":
            original = parameters.get("original_max_position_embeddings")
            limits.extend([int(original)] if original else [])
    return min(limits, default=sys.maxsize)


def _holds(cache: Any, tokens: int) -> bool:
    """Whether this is a cache whose rows can be chosen and which holds this many tokens."""
    if not (hasattr(cache, "reorder_cache") and hasattr(cache, "get_seq_length")):
        return False
    try:
        return int(cache.get_seq_length()) == tokens
    except ValueError:  # nothing but recurrent states, which know no length
        return False


class _MadeGradients(torch.autograd.Function):
    """A loss whose gradients (None: the parameter took no part) are there already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [p.dtype for p in parameters]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        scale = grads[0]
        scaled = (
            None if made is None else (made * scale).to(dtype)
            for made, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return None, None, *scaled


def _add(total: Tensor | None, gradient: Tensor) -> Tensor:
    """Sum in fp32 or better; `total` is changed in place."""
    if total is None:
        return gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True)
    return total.add_(gradient)


def _sequences(batch: PackedBatch) -> Iterator[tuple[slice, Sequence[int], Sequence[int], slice | list[int]]]:
    """Of every completion that has targets, in the batch's order: which targets of the batch they are, its prompt, its
    tokens, and which of these are the targets.
    """
    first = 0
    for group in batch.groups:
        for number, completion in enumerate(group.completions):
            targets = group.targets(number)
            if targets:
                chosen = slice(None) if len(targets) == len(completion) else targets
                yield slice(first, first + len(targets)), group.prompt_ids, completion, chosen
            first += len(targets)
    if first != batch.target_tokens:
        raise ValueError(f"the batch has {batch.target_tokens} targets, but its groups {first}: use pack()")


def _chunks(total: int) -> Iterator[slice]:
    return (slice(first, min(first + CHUNK_ROWS, total)) for first in range(0, total, CHUNK_ROWS))


def _scaled(logits_NV: Tensor, temperature: float) -> Tensor:
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature


def _token_terms(logits_NV: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and log-sum-exps [N] of logits / temperature, in fp32 or better."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in _chunks(len(targets_N)):
        scaled = _scaled(logits_NV[chunk], temperature)
        lse = scaled.logsumexp(-1)
        chosen = scaled.gather(1, targets_N[chunk, None])[:, 0]
        # entr(0) = 0: tokens that a model rules out with -inf add nothing
        entropy = torch.special.entr((scaled - lse[:, None]).exp()).sum(-1)
        parts.append((chosen - lse, entropy, lse))
    logprobs, entropies, lses = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprobs, entropies, lses


def _logits_gradient(logits_NV: Tensor, lse_N: Tensor, targets_N: Tensor, slopes: Slopes, temperature: float) -> Tensor:
    """Gradient [N, V] of a loss by the logits (`head.logits_gradient`)."""
    gradient_NV = torch.empty_like(logits_NV)
    for chunk in _chunks(len(targets_N)):
        logprobs = _scaled(logits_NV[chunk], temperature) - lse_N[chunk, None]
        gradient_NV[chunk] = logits_gradient(logprobs, targets_N[chunk], slopes.part(chunk), temperature)
    return gradient_NV


def _load_module(checkpoint: Checkpoint, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    because = f" ({checkpoint.reason})" if checkpoint.reason else ""
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ModelError(
            f"{checkpoint.source} needs the package transformers{because}: {how_to_install('hub')}; or use a "
            "model of the Llama, Qwen2, Qwen3 or Mistral architecture"
        ) from error
    try:
        with _no_progress_bar():
            module, report = AutoModelForCausalLM.from_pretrained(
                str(checkpoint.folder),
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # what goes wrong in a model's own code can be of any type
        advice = "" if trust_remote_code else "; if its folder brings code that you trust, set model.trust_remote_code"
        raise ModelError(
            f"transformers cannot load {checkpoint.source} ({type(error).__name__}: {_one_line(error)}); a newer "
            f"version may know the architecture{advice}; or use a model of the Llama, Qwen2, Qwen3 or Mistral "
            "architecture"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{checkpoint.source} lacks {len(missing)} of the tensors that its architecture has, first {missing[0]!r}; "
            "the folder is incomplete or its config.json belongs to another model: download it again"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        note_once(
            f"{checkpoint.source} holds {len(unused)} tensors that transformers does not use for this architecture, "
            f"first {unused[0]!r}"
        )
    return module


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:300] if text else "no details"
