"""One optimizer update on a mini-batch of groups, cut into micro-batches that change memory and nothing else.

Axes: C completion tokens of a micro-batch, N rollouts, T tokens of all rollouts of the mini-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rethink.algorithms.aggregation import token_weights
from rethink.algorithms.losses import GRPOTerms, grpo_token_loss
from rethink.errors import NumericsError
from rethink.kernels.trace import span, traced
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.language_model import LanguageModel
from rethink.model.packing import PackedBatch, PackedGroup, pack
from rethink.recipe.schema import AlgorithmSection
from rethink.runs.optimizer import MasterAdamW, learning_rate
from rethink.types import Rollout

Group = Sequence[Rollout]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rollouts computed in one pass."""

    batch: PackedBatch
    rollouts: tuple[Rollout, ...]


@dataclass(slots=True)
class UpdateStats:
    """Sums over the tokens of an update, turned into metrics at its end."""

    loss: float = 0.0
    tokens: int = 0
    input_tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    ratio_max: float = 0.0
    mismatch_max: float = 0.0

    def add(self, name: str, value: Tensor) -> None:
        """Add a sum over tokens."""
        self.sums[name] = self.sums.get(name, 0.0) + float(value.double().sum())

    def metrics(self, with_kl: bool) -> dict[str, float]:
        """Means over the tokens computed (groups left out for want of signal have none)."""
        names = {
            "entropy": "policy/entropy",
            "clipped_low": "policy/clip_low",
            "clipped_high": "policy/clip_high",
            "ratio": "policy/ratio_mean",
            "mismatch": "policy/mismatch",
        }
        if with_kl:
            names["kl"] = "policy/kl"
        out = {"policy/loss": self.loss}
        if self.tokens:
            out |= {metric: self.sums.get(name, 0.0) / self.tokens for name, metric in names.items()}
            out |= {"policy/ratio_max": self.ratio_max, "policy/mismatch_max": self.mismatch_max}
        return out


def micro_batches(groups: Sequence[Group], limit: int, device: torch.device) -> Iterator[MicroBatch]:
    """Pack groups, in order, into rows of at most `limit` input tokens; a larger group is cut between completions."""
    pending: list[tuple[PackedGroup, list[Rollout]]] = []
    room = limit
    for group in groups:
        for rollouts in _cut(group, limit):
            packed = PackedGroup(rollouts[0].prompt.token_ids, [r.completion.token_ids.tolist() for r in rollouts])
            if pending and packed.input_tokens > room:
                yield _micro_batch(pending, device)
                pending, room = [], limit
            pending.append((packed, rollouts))
            room -= packed.input_tokens
    if pending:
        yield _micro_batch(pending, device)


def _cut(group: Group, limit: int) -> Iterator[list[Rollout]]:
    """Parts of a group whose prompt and completions fit the limit (a single rollout is never cut)."""
    part: list[Rollout] = []
    size = prompt = len(group[0].prompt.token_ids)
    for rollout in group:
        extra = max(len(rollout.completion.token_ids) - 1, 0)
        if part and size + extra > limit:
            yield part
            part, size = [], prompt
        part.append(rollout)
        size += extra
    if part:
        yield part


def _micro_batch(pending: list[tuple[PackedGroup, list[Rollout]]], device: torch.device) -> MicroBatch:
    return MicroBatch(pack([p for p, _ in pending], device), tuple(r for _, rollouts in pending for r in rollouts))


def compute_logprobs(
    model: LanguageModel, groups: Sequence[Group], temperature: float, limit: int
) -> dict[int, Tensor]:
    """Log-probabilities [length] of each rollout's tokens under a model, by `id` of the rollout; no graph."""
    out: dict[int, Tensor] = {}
    for micro in micro_batches(groups, limit, model.device):
        with span("old log-probabilities", micro.batch.input_tokens, micro.batch.target_tokens):
            logprobs, _ = model.completion_logprobs(micro.batch, temperature)
        parts = logprobs.split(list(micro.batch.lengths))
        out.update({id(rollout): part for rollout, part in zip(micro.rollouts, parts, strict=True)})
    return out


@traced("training")
def accumulate_gradients(
    recipe: Recipe,
    model: LanguageModel,
    reference: LanguageModel | None,
    groups: Sequence[Group],
    old_logprobs: dict[int, Tensor] | None,
    step: int,
    limit: int,
    skip: Sequence[bool],
) -> UpdateStats:
    """Forward and backward of GRPO's loss on a mini-batch; gradients go where the parameters' hooks put them.

    Args:
        groups: the mini-batch, with advantages.
        old_logprobs: by `id` of the rollout; None: the policy has not changed since it sampled, so they are the
            current ones (ratio exactly 1, gradient intact).
        step: 0-based update number.
        limit: most input tokens in one pass.
        skip: groups to leave out of the computation; denominators count them.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    algorithm, temperature = recipe.algorithm, recipe.rollout.temperature
    everyone = [r for group in groups for r in group]
    total_tokens = sum(len(r.completion.token_ids) for r in everyone)
    stats = UpdateStats()
    kept = [group for group, left_out in zip(groups, skip, strict=True) if not left_out]
    for micro in micro_batches(kept, limit, model.device):
        lengths = torch.tensor(micro.batch.lengths)
        weights_C = token_weights(
            lengths,
            algorithm.aggregation,
            total_completions=len(everyone),
            total_tokens=total_tokens,
            denominator=_denominator(recipe, step),
            dtype=torch.promote_types(model.dtype, torch.float32),
        ).to(model.device)
        advantages = torch.tensor([r.advantage for r in micro.rollouts], dtype=weights_C.dtype)
        advantages_C = advantages.repeat_interleave(lengths).to(model.device)
        old_C = None if old_logprobs is None else torch.cat([old_logprobs[id(r)] for r in micro.rollouts])
        reference_C = None
        if reference is not None:
            with span("reference", micro.batch.input_tokens, micro.batch.target_tokens):
                reference_C = reference.completion_logprobs(micro.batch, temperature)[0]
        objective = _objective(algorithm, stats, weights_C, advantages_C, old_C, reference_C)
        with span("forward", micro.batch.input_tokens, micro.batch.target_tokens):
            loss, logprobs_C, entropies_C = model.completion_loss(micro.batch, objective, temperature)
        value = _finite(loss, step)
        with span("backward"):
            loss.backward()
        _record_batch(stats, micro, value, logprobs_C, entropies_C)
    return stats


def _denominator(recipe: Recipe, step: int) -> float | None:
    """What the `fixed` aggregation divides by."""
    if recipe.algorithm.aggregation != "fixed":
        return None
    sampled_at = step - step % recipe.steps_per_batch  # a batch's mini-batches share the limit it was sampled with
    return recipe.algorithm.fixed_denominator or float(recipe.rollout.max_new_tokens_at(sampled_at))


def _objective(
    algorithm: AlgorithmSection,
    stats: UpdateStats,
    weights_C: Tensor,
    advantages_C: Tensor,
    old_C: Tensor | None,
    reference_C: Tensor | None,
) -> Callable[[Tensor, slice], Tensor]:
    """The loss of a part of a micro-batch's tokens from their log-probabilities; it adds to the statistics."""

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        terms = grpo_token_loss(
            logprobs,
            logprobs.detach() if old_C is None else old_C[part],
            advantages_C[part],
            algorithm.clip_low,
            algorithm.clip_high,
            algorithm.beta,
            None if reference_C is None else reference_C[part],
        )
        _record_terms(stats, terms)
        return (weights_C[part] * terms.loss_T).sum()

    return objective


def _finite(loss: Tensor, step: int) -> float:
    """The loss as a number. Raises NumericsError where it is not finite."""
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericsError(
            f"the loss of step {step + 1} is {value}, so no update was made; what was saved is untouched. Start "
            "anew with another --out and a lower optimizer.learning_rate, or with model.dtype=float32: these "
            "values are part of what a run is, and a resumed run keeps them"
        )
    return value


def _record_terms(stats: UpdateStats, terms: GRPOTerms) -> None:
    policy = terms.policy
    stats.add("ratio", policy.ratio_T)
    stats.add("clipped_low", policy.clipped_low_T)
    stats.add("clipped_high", policy.clipped_high_T)
    if len(policy.ratio_T):
        stats.ratio_max = max(stats.ratio_max, float(policy.ratio_T.max()))
    if terms.kl_T is not None:
        stats.add("kl", terms.kl_T)


def _record_batch(stats: UpdateStats, micro: MicroBatch, loss: float, logprobs_C: Tensor, entropies_C: Tensor) -> None:
    stats.loss += loss
    stats.tokens += micro.batch.target_tokens
    stats.input_tokens += micro.batch.input_tokens
    stats.add("entropy", entropies_C)
    engine = torch.from_numpy(np.concatenate([r.completion.logprobs for r in micro.rollouts]))
    gap = (engine.to(logprobs_C.device) - logprobs_C).abs()
    stats.add("mismatch", gap)
    if len(gap):
        stats.mismatch_max = max(stats.mismatch_max, float(gap.max()))


@traced("optimizer")
def apply_update(recipe: Recipe, optimizer: MasterAdamW, step: int) -> dict[str, float]:
    """The optimizer's part of an update; `step` is 0-based."""
    started = time.perf_counter()
    rate = learning_rate(recipe.optimizer, step, recipe.steps)
    norm = optimizer.step(rate)
    return {
        "optimizer/learning_rate": rate,
        "optimizer/grad_norm": norm,
        "time/optimizer": time.perf_counter() - started,
    }
