"""The update of TRPO: conjugate gradients on Fisher-vector products, then a line search on measured KL and loss.

    gradient g ─► x = (F + damping)^-1 g ─► the longest step with KL 1/2 x^T F x ─► halved until both hold ─► weights
                                                    measured KL <= max_kl · loss lower than before

F is the Hessian of the mean KL(p_old || p) at p_old, J^T F_softmax J, which is exact there: no second derivative of the
model takes part. All tokens of the batch count, also those of groups without signal.

Axes: C completion tokens of a micro-batch, V vocabulary, E hidden size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.algorithms.natural_gradient import Vector, conjugate_gradients, fisher_of_logits, kl_of_logits
from rethink.algorithms.precision import probability_ratio
from rethink.errors import NumericsError, RecipeError, UsageError
from rethink.kernels.trace import traced
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import Group, MicroBatch, MiniBatch, micro_batches, token_advantages
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.tangent import hidden_along
from rethink.model.language_model import LanguageModel
from rethink.recipe.objective import objective_named
from rethink.runs.loop import Row
from rethink.runs.optimizer import MasterAdamW, Optimizer
from rethink.runs.ranks import launch_here

ROWS = 256
"""Rows whose logits, V wide, exist at once; each takes several tensors of them."""


def check_trust_region(recipe: Recipe, model: LanguageModel) -> None:
    """Refuse what TRPO cannot train.

    Raises:
        UsageError: says what to change.
    """
    name = recipe.algorithm.type
    if objective_named(name).update != "trust-region":
        return
    if launch_here() is not None:
        raise UsageError(
            f"`algorithm.type={name}` cannot be shared among trainer ranks: its step is one of all weights. Leave "
            "`ranks` and `trainer` out of the cluster file"
        )
    if not isinstance(model, Decoder):
        raise RecipeError(
            f"`algorithm.type={name}` needs the decoder of Rethink, and this model runs through transformers. Choose a "
            "model of the Llama, Qwen2, Qwen3 or Mistral architecture, or another type"
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from, of a policy as it is before it."""

    model: Decoder
    optimizer: MasterAdamW
    groups: Sequence[Group]
    limit: int
    """Most input tokens in one pass."""
    temperature: float

    @property
    def head(self) -> str:
        """Name of the head's weight, which may be the embedding."""
        return "embedding" if self.model.head is self.model.embedding else "head"

    def micro_batches(self) -> Iterator[tuple[MicroBatch, Tensor]]:
        """Each with the weights [C] of its tokens, which add up to 1 over all; 0 where a token is not trained on."""
        counted = sum(MiniBatch(self.groups).lengths)
        for micro in micro_batches(self.groups, self.limit, self.model.device):
            ones = torch.ones(micro.batch.target_tokens, dtype=self.model.dtype, device=self.model.device)
            yield micro, (ones if micro.trained is None else ones * micro.trained) / counted

    def take_gradient(self) -> dict[str, Tensor]:
        """What backward passes have left, which is 0 afterwards."""
        found = {name: gradient.clone() for name, gradient in self.optimizer.gradients().items()}
        self.optimizer.clear()
        return found


@traced("optimizer")
def trust_region_step(recipe: Recipe, optimizer: Optimizer, groups: Sequence[Group], limit: int, step: int) -> Row:
    """One update along the natural gradient of the gradients that the optimizer holds. Returns its metrics.

    Args:
        recipe: its `algorithm.options` bound the step.
        optimizer: holds the gradient of the loss and the policy.
        groups: with their advantages: all of the mini-batch.
        limit: most input tokens in one pass.
        step: 0-based, for messages.

    Raises:
        NumericsError: the gradient, or its product with the Fisher matrix, is not finite; nothing was changed.
    """
    assert isinstance(optimizer, MasterAdamW)  # `check_trust_region`
    assert isinstance(optimizer.trained, Decoder)
    started, options = time.perf_counter(), recipe.algorithm.options
    batch = Batch(optimizer.trained, optimizer, groups, limit, recipe.rollout.temperature)
    gradient = batch.take_gradient()
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
    if not math.isfinite(norm):
        raise NumericsError(f"the gradient of step {step + 1} is not finite, so no update was made")
    taken = Taken(0.0, 0.0, 0.0)
    residual = 0.0
    if norm > 0:
        product = damped(lambda v: fisher_product(batch, v), options["damping"])
        found = conjugate_gradients(product, gradient, int(options["iterations"]))
        if not math.isfinite(found.curvature) or found.curvature <= 0:
            raise NumericsError(
                f"conjugate gradients found no direction in step {step + 1} (curvature {found.curvature}), so no "
                "update was made. Start anew with a larger algorithm.options.damping"
            )
        residual = found.residual
        full = math.sqrt(2 * options["max_kl"] / found.curvature)
        taken = line_search(batch, found.x, full, options["max_kl"], int(options["backtracks"]))
    return {
        "optimizer/grad_norm": norm,
        "trust_region/kl": taken.kl,
        "trust_region/gain": taken.gain,
        "trust_region/share": taken.share,
        "trust_region/residual": residual,
        "time/optimizer": time.perf_counter() - started,
    }


def damped(product: Callable[[Vector], Vector], damping: float) -> Callable[[Vector], Vector]:
    """v -> (A + damping) v. `product` gives tensors of its own, which are changed."""

    def of(vector: Vector) -> Vector:
        return {name: image.add_(vector[name], alpha=damping) for name, image in product(vector).items()}

    return of


def fisher_product(batch: Batch, vector: Vector) -> dict[str, Tensor]:
    """F v: J v by a forward derivative, F_softmax on each token's logits, J^T by a backward pass."""
    model = batch.model
    change_VE, head_gradient = vector[batch.head], batch.optimizer.gradients()[batch.head]
    for micro, weights_C in batch.micro_batches():
        rows_C = micro.batch.head_rows_C
        hidden, change = (part.index_select(0, rows_C) for part in hidden_along(model, micro.batch, vector))
        upstream = torch.empty_like(hidden)
        with torch.no_grad():
            for part in _parts(len(rows_C)):
                logits = hidden[part] @ model.head.t() / batch.temperature
                moved = (change[part] @ model.head.t() + hidden[part] @ change_VE.t()) / batch.temperature
                slopes = fisher_of_logits(logits, moved) * (weights_C[part, None] / batch.temperature)
                upstream[part] = slopes @ model.head
                head_gradient += slopes.t() @ hidden[part]
        (model.hidden(micro.batch).index_select(0, rows_C) * upstream).sum().backward()
    return batch.take_gradient()


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was accepted; all 0 where none was."""

    share: float
    """Of the longest one."""
    kl: float
    """Measured: mean KL(p_old || p) over the tokens, nats."""
    gain: float
    """By how much the loss has fallen."""


def line_search(batch: Batch, direction: Vector, full: float, max_kl: float, backtracks: int) -> Taken:
    """Move the weights against a direction: the full length, then half of it and so on, until the measured KL is within
    its bound and the loss is lower. Where no length will do they stay as they are.

    Args:
        batch: its model is moved.
        direction: of ascent.
        full: factor of the longest step.
        max_kl: bound of the KL.
        backtracks: most halvings.
    """
    weights = dict(batch.model.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    known = [_rows(batch.model, micro) for micro, _ in batch.micro_batches()]
    for halvings in range(backtracks + 1):
        share = 0.5**halvings
        _put(weights, before, direction, full * share)
        kl, gain = measured(batch, known, before[batch.head])
        if kl <= max_kl and gain > 0:
            return Taken(share, kl, gain)
    _put(weights, before, direction, 0.0)
    return Taken(0.0, 0.0, 0.0)


def measured(batch: Batch, known: Sequence[Tensor], old_head: Tensor) -> tuple[float, float]:
    """(mean KL(p_old || p) over the tokens, by how much the loss has fallen) of the policy as it is now.

    Args:
        batch: of the step.
        known: hidden states [C, E] of each micro-batch before the step.
        old_head: [V, E] before the step.
    """
    kl = gain = 0.0
    with torch.no_grad():
        for (micro, weights_C), old_CE in zip(batch.micro_batches(), known, strict=True):
            new_CE, advantages_C = _rows(batch.model, micro), token_advantages(micro, weights_C)
            for part in _parts(len(old_CE)):
                old = old_CE[part] @ old_head.t() / batch.temperature
                new = new_CE[part] @ batch.model.head.t() / batch.temperature
                targets = micro.batch.targets_C[part, None]
                ratio = probability_ratio(*(z.log_softmax(-1).gather(1, targets)[:, 0] for z in (new, old)))
                kl += float((weights_C[part] * kl_of_logits(old, new)).double().sum())
                gain += float((weights_C[part] * (ratio - 1) * advantages_C[part]).double().sum())
    return kl, gain


def _rows(model: Decoder, micro: MicroBatch) -> Tensor:
    with torch.no_grad():
        return model.hidden(micro.batch).index_select(0, micro.batch.head_rows_C)


def _parts(total: int) -> list[slice]:
    return [slice(first, min(first + ROWS, total)) for first in range(0, total, ROWS)]


def _put(weights: Mapping[str, Tensor], before: Vector, direction: Vector, length: float) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(before[name]).sub_(direction[name], alpha=length)
