"""The head: log-probabilities of given tokens, without ever holding V-wide logits of the whole batch.

Axes: C target tokens, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rethink.kernels.elementwise import row_blocks
from rethink.kernels.linear import main_grad
from rethink.kernels.native import ops
from rethink.kernels.trace import traced

CHUNK_ROWS = 512
"""Rows whose logits exist at once: fp32 where the native product makes them, else in the compute dtype."""
GAP = 80
"""Entries between rows of native logits."""
BLOCK_ROWS = 32
"""Rows whose fp32 logits exist at once: passes over them stay in the last-level cache."""

KEPT_BYTES = 128 << 20
"""Largest block that stays between training phases: larger ones (wide vocabularies) are allocated again, in huge
pages."""

CUT_BELOW = 1e4
"""How far below the least logit that is kept one that was cut is put: its probability is 0 in fp32."""


class Kept(NamedTuple):
    """Which entries of the vocabulary the distribution of each target has; all others have the probability 0."""

    counts_C: Tensor
    ids: Tensor
    """Target after target."""

    def cut(self, logits_CV: Tensor, part: slice) -> None:
        """Cut the logits of a part of the targets, in place. In torch, also where all else is native."""
        ends = self.counts_C.cumsum(0)
        first, last = (int(ends[place - 1]) if place else 0 for place in (part.start, part.stop))
        ids, counts = self.ids[first:last], self.counts_C[part]
        rows = torch.arange(len(counts), device=ids.device).repeat_interleave(counts)
        values = logits_CV[rows, ids]
        if len(values):
            logits_CV.fill_(float(values.min()) - CUT_BELOW)
            logits_CV[rows, ids] = values


class Extra(NamedTuple):
    """What changes the loss or the distributions in some passes alone."""

    bonus_C: Tensor | None = None
    """[C] what the entropy of each target's distribution is multiplied by before it is taken off the loss; None: 0."""
    cut: Kept | None = None
    """What each distribution is renormalised over, of which its target must be one; None: all."""


TokenObjective = Callable[[Tensor, slice], Tensor]
"""(log-probabilities of a chunk, which targets they are) -> scalar loss of the chunk, differentiable."""


PLAIN = Extra()


class Slopes(NamedTuple):
    """Slopes of a loss by what it reads of each target."""

    coefficient_C: Tensor
    """[C] by the log-probability."""
    bonus_C: Tensor | None
    """[C] minus the slope by the entropy; None: 0."""
    entropies_C: Tensor

    def part(self, of: slice) -> Slopes:
        """Those of some targets."""
        return Slopes(self.coefficient_C[of], None if self.bonus_C is None else self.bonus_C[of], self.entropies_C[of])


@traced("head")
def token_logprobs(
    hidden_CE: Tensor, weight_VE: Tensor, targets_C: Tensor, temperature: float = 1.0, cut: Kept | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [C] of the targets and entropies [C] of their distributions, at a temperature; no graph.

    With `cut`, the distributions are renormalised over what it keeps, of which each target must be one.
    """
    logprobs, entropies = _empty(hidden_CE, 2)
    with torch.no_grad():
        logits_of = _logits_of(hidden_CE, weight_VE)
        for chunk in _chunks(len(targets_C)):
            logits = logits_of(hidden_CE[chunk])
            if cut is not None:
                cut.cut(logits, chunk)
            _chunk_logprobs(logits, targets_C[chunk], temperature, logprobs[chunk], entropies[chunk])
    return logprobs, entropies


def head_loss(
    hidden_CE: Tensor,
    weight_VE: Tensor,
    targets_C: Tensor,
    objective: TokenObjective,
    temperature: float = 1.0,
    whole: bool = False,
    extra: Extra = PLAIN,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of `objective` over chunks of target log-probabilities, differentiable in hidden and weight.

    The gradients are made chunk by chunk in the forward pass, while the chunk's logits are there, so nothing is
    computed twice. Where the weight has a `main_grad` and gradients are wanted, its gradient is added there at once,
    for a backward pass that starts from this loss itself: any factor belongs into `objective`.

    With `whole`, `objective` is called once with all targets, so that it may sum over more tokens than a chunk has.
    That takes a pass of the head more, without a graph: all log-probabilities must be known before any gradient is.

    `extra` may take a bonus for entropy off the sum, and cut the distributions: the gradient of what is cut is 0.

    Returns the loss (scalar), the log-probabilities [C] and the entropies [C], both detached.
    """
    if whole:
        objective = at_once(objective, token_logprobs(hidden_CE, weight_VE, targets_C, temperature, extra.cut)[0])
    kept = main_grad(weight_VE) if torch.is_grad_enabled() and weight_VE.requires_grad else None
    loss, logprobs, entropies = _HeadLoss.apply(hidden_CE, weight_VE, targets_C, objective, temperature, (kept, extra))  # type: ignore[no-untyped-call]
    return loss, logprobs, entropies


def at_once(objective: TokenObjective, logprobs_C: Tensor) -> TokenObjective:
    """The objective of all tokens as one that takes them chunk by chunk, with the same sum and gradient."""
    leaf = logprobs_C.requires_grad_()
    with torch.enable_grad():
        value = objective(leaf, slice(0, len(leaf)))
        (slopes_C,) = torch.autograd.grad(value, leaf)
    value = value.detach()

    def part_of_it(logprobs: Tensor, part: slice) -> Tensor:
        change = (slopes_C[part] * (logprobs - logprobs.detach())).sum()  # 0, with the slopes as its gradient
        return change + value if part.start == 0 else change

    return part_of_it


def release_memory() -> None:
    """For the end of a training phase: give back the large blocks that served one micro-batch after the other."""
    ops.release_scratch(KEPT_BYTES)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        objective: TokenObjective,
        temperature: float,
        added: tuple[Tensor | None, Extra],
    ) -> tuple[Tensor, Tensor, Tensor]:
        logprobs, entropies = _empty(hidden, 2)
        accurate, (kept, (bonus, cut)) = logprobs.dtype, added
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=accurate) if kept is None else kept
        logits_of, native = _logits_of(hidden, weight), ops.usable(hidden)
        back = ops.pack_now(weight, False, "head backward") if native else None
        loss = torch.zeros((), dtype=accurate, device=hidden.device)
        for chunk in _chunks(len(targets)):
            rows = hidden[chunk]
            logits = logits_of(rows)
            if cut is not None:
                cut.cut(logits, chunk)
            lse = _chunk_logprobs(logits, targets[chunk], temperature, logprobs[chunk], entropies[chunk])
            with torch.enable_grad():
                leaf = logprobs[chunk].clone().requires_grad_()
                value = objective(leaf, chunk)
                (coefficient,) = torch.autograd.grad(value, leaf)
            loss += value.detach()
            terms = Slopes(coefficient, None if bonus is None else bonus[chunk], entropies[chunk])
            if terms.bonus_C is not None:
                loss -= (terms.bonus_C * terms.entropies_C).sum()
            if back is not None:
                slopes = _native_gradients(logits, lse, targets[chunk], terms, temperature, hidden.dtype)
                wide = torch.empty(rows.shape)  # V products a sum: long enough to be cut, and so in fp32
                ops.product(slopes, back, wide, ops.OUT_FP32)
                grad_hidden[chunk] = wide
                ops.product(slopes, ops.pack_now(rows, False), grad_weight, ops.OUT_ADD, transposed=True)
                continue
            _logits_to_gradients(logits, lse, targets[chunk], terms, temperature, logits)
            grad_hidden[chunk] = logits @ weight
            grad_weight += logits.t() @ rows
        ctx.save_for_backward(grad_hidden)
        ctx.weight_dtype, ctx.grad_weight = weight.dtype, grad_weight if kept is None else None
        ctx.mark_non_differentiable(logprobs, entropies)
        return loss, logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_hidden,), scale = ctx.saved_tensors, grads[0]
        if ctx.grad_weight is not None:
            grad_weight = (ctx.grad_weight * scale).to(ctx.weight_dtype)
            return grad_hidden * scale.to(grad_hidden.dtype), grad_weight, None, None, None, None
        if scale != 1:
            raise RuntimeError(f"head_loss has added its gradient already, so it cannot be scaled by {float(scale)}")
        return grad_hidden, None, None, None, None, None


def _logits_of(hidden: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Rows of hidden states to logits (valid until the next call), with the weight laid out once."""
    if not ops.usable(hidden):
        return lambda rows: rows @ weight.t()
    packed = ops.pack_now(weight, True, "head")
    # Rows a power of two apart would fall on the same few lines of the caches, hence the gap between them.
    count, width = min(CHUNK_ROWS, hidden.shape[0]), weight.shape[0] + GAP
    memory = ops.scratch(count * width, "logits", torch.float32)[: count * width].view(count, width)
    memory = memory[:, : weight.shape[0]]

    def product(rows: Tensor) -> Tensor:
        return ops.product(rows.contiguous(), packed, memory[: rows.shape[0]], ops.OUT_FP32)

    return product


def _empty(hidden: Tensor, number: int) -> list[Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    return [torch.empty(hidden.shape[0], dtype=dtype, device=hidden.device) for _ in range(number)]


def _chunks(total: int) -> list[slice]:
    return [slice(first, min(first + CHUNK_ROWS, total)) for first in range(0, total, CHUNK_ROWS)]


def _chunk_logprobs(
    logits_CV: Tensor, targets_C: Tensor, temperature: float, logprobs_C: Tensor, entropies_C: Tensor
) -> Tensor:
    """Fill log-probabilities and entropies of a chunk; returns its log-sum-exps [C] (of logits / temperature)."""
    lse_C = torch.empty_like(logprobs_C)
    if logits_CV.dtype == torch.float32 and ops.usable(logits_CV) and logits_CV.stride(1) == 1:
        ops.head_logprobs(logits_CV, targets_C, temperature, logprobs_C, entropies_C, lse_C)
        return lse_C
    for block in row_blocks(logits_CV, BLOCK_ROWS):
        scaled = logits_CV[block].to(logprobs_C.dtype, copy=True)
        if temperature != 1.0:
            scaled /= temperature
        top = scaled.amax(dim=-1, keepdim=True)
        scaled -= top
        chosen = scaled.gather(1, targets_C[block, None])[:, 0]
        weights = torch.exp(scaled)
        total = weights.sum(dim=-1)
        log_total = total.log()
        logprobs_C[block] = chosen - log_total
        # H = log Z - E[x]; E[x] by one batched product, so that no further V-wide temporary is made
        mean = torch.bmm(weights[:, None, :], scaled[:, :, None])[:, 0, 0] / total
        entropies_C[block] = log_total - mean
        lse_C[block] = log_total + top[:, 0]
    return lse_C


def _native_gradients(
    logits_CV: Tensor, lse_C: Tensor, targets_C: Tensor, slopes: Slopes, temperature: float, dtype: torch.dtype
) -> Tensor:
    """As `_logits_to_gradients`, of native logits and in their memory: fp32, or bf16 in the first half of each row."""
    if slopes.bonus_C is None:
        coefficient = slopes.coefficient_C.contiguous()  # that of a sum is one number, read again and again
        return ops.head_gradient(logits_CV, targets_C, lse_C, coefficient, temperature, dtype)
    out = logits_CV if dtype == torch.float32 else logits_CV.view(dtype)[:, : logits_CV.shape[1]]
    _logits_to_gradients(logits_CV, lse_C, targets_C, slopes, temperature, out)
    return out


def _logits_to_gradients(
    logits_CV: Tensor, lse_C: Tensor, targets_C: Tensor, slopes: Slopes, temperature: float, out_CV: Tensor
) -> None:
    """Write d loss / d logits to `out_CV`, which may be the memory of the logits; see `logits_gradient`."""
    for block in row_blocks(logits_CV, BLOCK_ROWS):
        scaled = logits_CV[block].to(lse_C.dtype)
        if temperature != 1.0:
            scaled /= temperature
        logprobs = scaled.sub_(lse_C[block, None])
        out_CV[block] = logits_gradient(logprobs, targets_C[block], slopes.part(block), temperature).to(out_CV.dtype)


def logits_gradient(logprobs_CV: Tensor, targets_C: Tensor, slopes: Slopes, temperature: float) -> Tensor:
    """[C, V] d loss / d logits, in the memory of the log-probabilities of all tokens.

    coefficient * (onehot - softmax) / temperature, and of the entropy, whose derivative is -p (log p + H),
    bonus * p (log p + H) / temperature. A token of log-probability -inf has none.
    """
    scale = (slopes.coefficient_C / temperature)[:, None]
    if slopes.bonus_C is None:
        gradient = logprobs_CV.exp_().mul_(-scale)
    else:
        softmax = logprobs_CV.exp()
        rising = (softmax * slopes.entropies_C[:, None]).sub_(torch.special.entr(softmax))
        gradient = softmax.mul_(-scale).add_(rising.mul_((slopes.bonus_C / temperature)[:, None]))
    return gradient.scatter_add_(1, targets_C[:, None], scale)
