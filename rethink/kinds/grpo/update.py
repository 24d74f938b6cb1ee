"""One optimizer update on a mini-batch of groups, cut into micro-batches that change memory and nothing else.

Axes: C completion tokens of a micro-batch, N rollouts, T tokens of all rollouts of the mini-batch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from rethink.algorithms.aggregation import token_weights
from rethink.algorithms.losses import LossTerms, Tokens, token_loss
from rethink.kernels.trace import span, traced
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.recipe.schema import AlgorithmSection
from rethink.runs.lanes import cut, within
from rethink.runs.numerics import finite_loss
from rethink.seeds import Purpose, draw
from rethink.types import Rollout

Group = Sequence[Rollout]


@dataclass(frozen=True, slots=True, eq=False)
class MiniBatch:
    """What one update learns from."""

    groups: Sequence[Group]
    """With advantages."""
    old_logprobs: Sequence[Tensor] | None = None
    """[length] of each rollout, group after group: what the ratio is taken to; None: the current ones (ratio exactly 1,
    gradient intact)."""
    skip: Sequence[bool] = ()
    """Groups to leave out of the computation, which the loss's denominators count; empty: none."""
    counted: tuple[int, int] | None = None
    """(completions, tokens) that the loss's denominators count, where these are not all that the update learns from."""
    factors: Sequence[Tensor] | None = None
    """[length] of each rollout, 0 where the mini-batch's choice takes the policy loss of the token (`choice.py`)."""
    penalties: Sequence[Tensor] | None = None
    """[length] of each rollout: weights of the distance from the policy that sampled."""
    beta: float | None = None
    """The KL coefficient, where it is not the recipe's."""

    @property
    def lengths(self) -> list[int]:
        """Trained tokens of each completion."""
        return [_trained_tokens(r) for group in self.groups for r in group]

    def kept(self) -> MiniBatch:
        """Without the groups to leave out."""
        return (
            self.part([place for place, left_out in enumerate(self.skip) if not left_out]) if any(self.skip) else self
        )

    def lanes(self, number: int) -> list[MiniBatch]:
        """The groups to compute, in at most so many parts of about equal size, each in its order."""
        kept = self.kept()
        sizes = [_packed(group).input_tokens for group in kept.groups]
        return [kept.part(places) for places in cut(sizes, number)]

    def part(self, places: Sequence[int]) -> MiniBatch:
        """The groups at these places; the loss's denominators stay."""
        first = [0, *accumulate(len(group) for group in self.groups)]
        rollouts = [i for place in places for i in range(first[place], first[place + 1])]
        old, factors, penalties = (
            None if values is None else [values[i] for i in rollouts]
            for values in (self.old_logprobs, self.factors, self.penalties)
        )
        return MiniBatch(
            [self.groups[place] for place in places],
            old,
            counted=self.counted or (len(self.lengths), sum(self.lengths)),
            factors=factors,
            penalties=penalties,
            beta=self.beta,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Rollouts computed in one pass."""

    batch: PackedBatch
    rollouts: tuple[Rollout, ...]
    first: int
    """Place of the first one among all rollouts of the groups; the others follow it in order."""

    def joined(self, values: Sequence[Tensor]) -> Tensor:
        """[C] values of these rollouts' tokens, from those [length] of every rollout of the groups."""
        return torch.cat(list(values[self.first : self.first + len(self.rollouts)]))

    @property
    def trained(self) -> Tensor | None:
        """[C] whether each token is trained on; None: all are."""
        if not any(r.turns for r in self.rollouts):
            return None
        return torch.from_numpy(np.concatenate([r.trained for r in self.rollouts])).to(self.batch.tokens_T.device)

    def engine_logprobs(self, device: torch.device) -> Tensor:
        """[C] log-probabilities that the engine sampled with."""
        return torch.from_numpy(np.concatenate([r.completion.behaviour_logprobs for r in self.rollouts])).to(device)


def masked(rollout: Rollout, settings: AlgorithmSection) -> bool:
    """Whether the recipe leaves a completion out of the loss: because it was cut off by the token limit."""
    return settings.mask_truncated and rollout.completion.finish_reason == "length"


def group_order(purpose: Purpose, seed: int, batch: int, epoch: int, groups: int, parts: int) -> list[list[int]]:
    """The groups of each mini-batch of an epoch: each group once, in an order drawn where there are several."""
    order = list(range(groups))
    if parts > 1:
        random.Random(draw(purpose, seed, batch, epoch)).shuffle(order)
    size = groups // parts
    return [order[part * size : (part + 1) * size] for part in range(parts)]


def _trained_tokens(rollout: Rollout) -> int:
    return int(rollout.trained.sum()) if rollout.turns else len(rollout.completion.token_ids)


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

    @staticmethod
    def merged(parts: Sequence[UpdateStats]) -> UpdateStats:
        """The sums of an update from those of its lanes, in their order."""
        out = UpdateStats()
        for part in parts:
            out.loss += part.loss
            out.tokens += part.tokens
            out.input_tokens += part.input_tokens
            for name, value in part.sums.items():
                out.sums[name] = out.sums.get(name, 0.0) + value
            out.ratio_max = max(out.ratio_max, part.ratio_max)
            out.mismatch_max = max(out.mismatch_max, part.mismatch_max)
        return out

    def metrics(self, settings: AlgorithmSection) -> dict[str, float]:
        """Means over the tokens computed (groups left out for want of signal have none)."""
        names = {
            "entropy": "policy/entropy",
            "clipped_low": "policy/clip_low",
            "clipped_high": "policy/clip_high",
            "ratio": "policy/ratio_mean",
            "mismatch": "policy/mismatch",
        }
        if settings.kl_coefficient > 0:
            names["kl"] = "policy/kl"
        if settings.off_policy_mask is not None:
            names["masked"] = "policy/masked"
        if "mini-batch" in settings.needs:
            names["chosen"] = "policy/chosen"
        if settings.correction != "none":
            names |= {"weight": "policy/correction", "cut": "policy/correction_cut"}
        out = {"policy/loss": self.loss}
        if self.tokens:
            out |= {metric: self.sums.get(name, 0.0) / self.tokens for name, metric in names.items()}
            out |= {"policy/ratio_max": self.ratio_max, "policy/mismatch_max": self.mismatch_max}
        if math.isnan(self.sums.get("mismatch", 0.0)):  # an engine that does not know, where top-p or top-k cut
            del out["policy/mismatch"], out["policy/mismatch_max"]
        return out


def micro_batches(groups: Sequence[Group], limit: int, device: torch.device) -> Iterator[MicroBatch]:
    """Pack groups, in order, into rows of at most `limit` input tokens; a larger group is cut between completions."""
    parts = ((_packed(rollouts), rollouts) for group in groups for rollouts in _cut(group, limit))
    first = 0
    for row in within(parts, lambda part: part[0].input_tokens, limit):
        micro = _micro_batch(row, first, device)
        yield micro
        first += len(micro.rollouts)


def _packed(rollouts: Group) -> PackedGroup:
    masks = [r.completion.mask for r in rollouts if r.completion.mask is not None]
    return PackedGroup(
        rollouts[0].prompt.token_ids, [r.completion.token_ids.tolist() for r in rollouts], cuts=masks or None
    )


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


def _micro_batch(pending: list[tuple[PackedGroup, list[Rollout]]], first: int, device: torch.device) -> MicroBatch:
    packed = pack([p for p, _ in pending], device)
    return MicroBatch(packed, tuple(r for _, rollouts in pending for r in rollouts), first)


def compute_logprobs(model: LanguageModel, groups: Sequence[Group], temperature: float, limit: int) -> list[Tensor]:
    """Log-probabilities [length] of each rollout's tokens under a model, group after group; no graph."""
    return [logprobs for logprobs, _ in compute_terms(model, groups, temperature, limit)]


def compute_terms(
    model: LanguageModel, groups: Sequence[Group], temperature: float, limit: int
) -> list[tuple[Tensor, Tensor]]:
    """As `compute_logprobs`, with the entropies [length] of the distributions that the tokens come from."""
    out: list[tuple[Tensor, Tensor]] = []
    for micro in micro_batches(groups, limit, model.device):
        with span("old log-probabilities", micro.batch.input_tokens, micro.batch.target_tokens):
            terms = model.completion_logprobs(micro.batch, temperature)
        out += zip(*(values.split(list(micro.batch.lengths)) for values in terms), strict=True)
    return out


@traced("training")
def accumulate_gradients(
    recipe: Recipe,
    model: LanguageModel,
    reference: LanguageModel | None,
    mini_batch: MiniBatch,
    step: int,
    limit: int,
) -> UpdateStats:
    """Forward and backward of the objective on a mini-batch; gradients go where the parameters' hooks put them.

    What the recipe's `algorithm.needs` names is computed, and nothing else.

    Args:
        step: 0-based update number.
        limit: most input tokens in one pass.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    settings, temperature = recipe.algorithm, recipe.rollout.temperature
    if mini_batch.beta is not None:
        settings = settings.model_copy(update={"beta": mini_batch.beta})
    needs, stats, kept = settings.needs, UpdateStats(), mini_batch.kept()
    completions, tokens = mini_batch.counted or (len(mini_batch.lengths), sum(mini_batch.lengths))
    for micro in micro_batches(kept.groups, limit, model.device):
        weights = token_weights(
            torch.tensor([_trained_tokens(r) for r in micro.rollouts]),
            settings.aggregation,
            total_completions=completions,
            total_tokens=tokens,
            denominator=_denominator(recipe, step),
            dtype=torch.promote_types(model.dtype, torch.float32),
        ).to(model.device)
        reference_C = None
        if reference is not None and settings.kl_in == "loss":
            with span("reference", micro.batch.input_tokens, micro.batch.target_tokens):
                reference_C = reference.completion_logprobs(micro.batch, temperature)[0]
        known = _known(micro, kept, weights, reference_C, needs)
        objective = _objective(settings, stats, known)
        with span("forward", micro.batch.input_tokens, micro.batch.target_tokens):
            loss, logprobs_C, entropies_C = model.completion_loss(
                micro.batch,
                objective,
                temperature,
                whole="sequence" in needs,
                bonus_C=settings.entropy_bonus * known.weights_C if settings.entropy_bonus else None,
            )
        value = finite_loss(loss, step)
        with span("backward"):
            loss.backward()
        stats.loss += value
        _record_batch(stats, micro, logprobs_C, entropies_C)
    return stats


def _known(
    micro: MicroBatch, mini_batch: MiniBatch, weights: Tensor, reference_C: Tensor | None, needs: Set[str]
) -> Known:
    """What is known of a micro-batch; `weights`: of its trained tokens."""
    device, trained_C = weights.device, micro.trained
    old_C, factor_C, penalty_C = (
        None if values is None else micro.joined(values).to(device)
        for values in (mini_batch.old_logprobs, mini_batch.factors, mini_batch.penalties)
    )
    return Known(
        _spread(weights, trained_C),
        token_advantages(micro, weights),
        old_C,
        micro.engine_logprobs(device) if "engine" in needs else None,
        reference_C,
        micro.batch.lengths if "sequence" in needs else None,
        trained_C,
        None if factor_C is None else factor_C.to(weights.dtype),
        None if penalty_C is None else penalty_C.to(weights.dtype),
    )


def token_advantages(micro: MicroBatch, like: Tensor) -> Tensor:
    """[C] the advantage of each token: its own, or its rollout's; of the device and type of `like`."""
    spread = [np.broadcast_to(r.advantage, r.completion.token_ids.shape) for r in micro.rollouts]
    return torch.from_numpy(np.concatenate(spread)).to(like.device, like.dtype)


def _spread(weights: Tensor, trained_C: Tensor | None) -> Tensor:
    """[C] the weights of the trained tokens, 0 for the others."""
    if trained_C is None:
        return weights
    return weights.new_zeros(len(trained_C)).masked_scatter(trained_C, weights)


def _denominator(recipe: Recipe, step: int) -> float | None:
    """What the `fixed` aggregation divides by."""
    if recipe.algorithm.aggregation != "fixed":
        return None
    sampled_at = step - step % recipe.steps_per_batch  # a batch's mini-batches share the limit it was sampled with
    return recipe.algorithm.fixed_denominator or float(recipe.rollout.max_new_tokens_at(sampled_at))


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of a micro-batch's tokens before the policy's log-probabilities are; [C] each, None: not needed."""

    weights_C: Tensor
    advantages_C: Tensor
    old_C: Tensor | None
    engine_C: Tensor | None
    reference_C: Tensor | None
    lengths: tuple[int, ...] | None
    """Tokens of each completion, where completions must be whole."""
    trained_C: Tensor | None = None
    """Which tokens are trained on; None: all."""
    factor_C: Tensor | None = None
    penalty_C: Tensor | None = None

    def tokens(self, logprobs: Tensor, part: slice) -> tuple[Tokens, Tensor]:
        """The trained ones of a part, and their weights."""
        use = slice(None) if self.trained_C is None else self.trained_C[part]
        old = logprobs.detach() if self.old_C is None else self.old_C[part]
        known = (self.engine_C, self.reference_C, self.factor_C, self.penalty_C)
        engine, reference, factor, penalty = (None if values is None else values[part][use] for values in known)
        lengths = self._lengths(part)
        if lengths is not None and self.trained_C is not None:
            lengths = torch.stack([one.sum() for one in self.trained_C[part].cpu().split(lengths.tolist())])
        lengths = None if lengths is None else lengths.to(logprobs.device)
        here = (logprobs[use], old[use], self.advantages_C[part][use])
        return Tokens(*here, engine, reference, lengths, factor, penalty), self.weights_C[part][use]

    def _lengths(self, part: slice) -> Tensor | None:
        """[N] lengths of the completions that a part holds."""
        if self.lengths is None:
            return None
        lengths = torch.tensor(self.lengths)
        ends = lengths.cumsum(0)
        return lengths[(ends > part.start) & (ends <= part.stop)]


def _objective(settings: AlgorithmSection, stats: UpdateStats, known: Known) -> Callable[[Tensor, slice], Tensor]:
    """The loss of a part of a micro-batch's tokens from their log-probabilities; it adds to the statistics."""

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        tokens, weights = known.tokens(logprobs, part)
        if tokens.factor_T is not None:
            stats.add("chosen", tokens.factor_T)
        terms = token_loss(tokens, settings)
        _record_terms(stats, terms)
        return (weights * terms.loss_T).sum()

    return objective


def _record_terms(stats: UpdateStats, terms: LossTerms) -> None:
    policy = terms.policy
    stats.add("ratio", policy.ratio_T)
    stats.add("clipped_low", policy.clipped_low_T)
    stats.add("clipped_high", policy.clipped_high_T)
    if len(policy.ratio_T):
        stats.ratio_max = max(stats.ratio_max, float(policy.ratio_T.max()))
    if terms.kl_T is not None:
        stats.add("kl", terms.kl_T)
    if terms.weights_T is not None and terms.cut_T is not None:
        stats.add("weight", terms.weights_T)
        stats.add("cut", terms.cut_T)
    if terms.masked_T is not None:
        stats.add("masked", terms.masked_T)


def _record_batch(stats: UpdateStats, micro: MicroBatch, logprobs_C: Tensor, entropies_C: Tensor) -> None:
    engine_C = micro.engine_logprobs(logprobs_C.device)
    if micro.trained is not None:
        kept = micro.trained
        engine_C, logprobs_C, entropies_C = engine_C[kept], logprobs_C[kept], entropies_C[kept]
    stats.tokens += len(logprobs_C)
    stats.input_tokens += micro.batch.input_tokens
    stats.add("entropy", entropies_C)
    gap = (engine_C - logprobs_C).abs()
    stats.add("mismatch", gap)
    if len(gap):
        stats.mismatch_max = max(stats.mismatch_max, float(gap.max()))
