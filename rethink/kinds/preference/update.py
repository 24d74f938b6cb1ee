"""The gradients of a step on preferences: log-probabilities of whole answers, their loss.

A prompt is computed once for its answers. The loss of a pair needs both answers before there is any gradient, so that a
pair is never cut, and the head makes a pass more.

Axes: C answer tokens of a micro-batch, A its answers, B its examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rethink.algorithms.preference import Answers, PreferenceTerms
from rethink.kernels.trace import span, traced
from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.recipe.preference import PreferenceSection
from rethink.runs.lanes import cut, within
from rethink.runs.numerics import finite_loss

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """Examples with what is known of them, of a step or of a part of it."""

    groups: Sequence[PackedGroup]
    """The prompt and the answers of each."""
    counted: int
    """Examples of the whole step, over which the loss is the mean."""
    reference: Sequence[Values] | None = None
    """[answers of the example] log-probabilities under the reference model; None: not stored, or not needed."""
    labels: Sequence[bool] | None = None
    """Whether the answer of each example is a good one; None: examples are pairs."""
    kl: float = 0.0
    """See `Answers.kl`; of the whole step."""

    def part(self, places: Sequence[int]) -> Lane:
        """The examples at these places."""
        return replace(
            self,
            groups=[self.groups[place] for place in places],
            reference=None if self.reference is None else [self.reference[place] for place in places],
            labels=None if self.labels is None else [self.labels[place] for place in places],
        )

    def lanes(self, number: int) -> list[Lane]:
        """The examples in at most so many lanes of about equal size, each in its order."""
        return [self.part(places) for places in cut([group.input_tokens for group in self.groups], number)]

    def micro_batches(self, limit: int) -> Iterator[Lane]:
        """The examples, in order, in parts of at most `limit` tokens; a single example is never cut."""
        for places in within(range(len(self.groups)), lambda place: self.groups[place].input_tokens, limit):
            yield self.part(places)


@dataclass(slots=True)
class StepStats:
    """Sums over a step."""

    sums: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add to a sum."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    @staticmethod
    def merged(parts: Sequence[StepStats]) -> StepStats:
        """The sums of a step from those of its lanes, in their order."""
        out = StepStats()
        for part in parts:
            for name, value in part.sums.items():
                out.add(name, value)
        return out

    def mean(self, name: str, count: str) -> float | None:
        """A sum divided by another; None where that is 0."""
        return self.sums[name] / self.sums[count] if self.sums.get(count) else None

    def metrics(self) -> dict[str, float]:
        """As the metrics file has them; a side that no example of the step is on has none."""
        found = {
            "preference/loss": self.mean("loss", "examples"),
            "preference/accuracy": self.mean("right", "examples"),
            "preference/margin": self.mean("margin", "examples"),
            "preference/reward_chosen": self.mean("reward chosen", "chosen"),
            "preference/reward_rejected": self.mean("reward rejected", "rejected"),
            "preference/logprob_chosen": self.mean("logprob chosen", "tokens chosen"),
            "preference/logprob_rejected": self.mean("logprob rejected", "tokens rejected"),
        }
        return {name: value for name, value in found.items() if value is not None}


@traced("training")
def accumulate_gradients(
    recipe: PreferenceRecipe,
    model: LanguageModel,
    reference: LanguageModel | None,
    lane: Lane,
    step: int,
    limit: int,
) -> StepStats:
    """Forward and backward of a lane; gradients go where the parameters' hooks put them.

    Args:
        reference: of a run whose reference model is in memory; else the lane has what is needed.
        step: 0-based update number, for messages.
        limit: most tokens in one pass.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    stats = StepStats()
    for part in lane.micro_batches(limit):
        batch = pack(part.groups, model.device)
        reference_A = reference_of(part, batch, reference)
        found: list[PreferenceTerms] = []

        def objective(logprobs_C: Tensor, _: slice) -> Tensor:
            found.append(terms_of(recipe.algorithm, part, batch, logprobs_C, reference_A))  # noqa: B023
            return found[-1].loss_B.sum() / lane.counted  # noqa: B023

        with span("forward", batch.input_tokens, batch.target_tokens):
            loss, logprobs_C, _ = model.completion_loss(batch, objective, together=True)
        finite_loss(loss, step)
        with span("backward"):
            loss.backward()
        record(stats, part, batch, found[0], logprobs_C)
        stats.add("input tokens", batch.input_tokens)
    return stats


def terms_of(
    settings: PreferenceSection, part: Lane, batch: PackedBatch, logprobs_C: Tensor, reference_A: Tensor | None
) -> PreferenceTerms:
    """The loss of a part's examples from the log-probabilities of all its tokens."""
    lengths_A = torch.tensor(batch.lengths, device=logprobs_C.device)
    labels_B = None if part.labels is None else torch.tensor(part.labels, device=logprobs_C.device)
    answers = Answers(sums_of(logprobs_C, batch), lengths_A, reference_A, labels_B, part.kl)
    terms: PreferenceTerms = settings.objective.loss(answers, settings)
    return terms


def sums_of(values_C: Tensor, batch: PackedBatch) -> Tensor:
    """[A] sum over the tokens of each answer, fp64."""
    return torch.stack([part.sum() for part in values_C.double().split(list(batch.lengths))])


def reference_of(part: Lane, batch: PackedBatch, reference: LanguageModel | None) -> Tensor | None:
    """[A] log-probabilities under the reference model: stored ones, or computed now; None: there is none."""
    if reference is not None:
        with span("reference", batch.input_tokens, batch.target_tokens):
            return sums_of(reference.completion_logprobs(batch)[0], batch)
    if part.reference is None:
        return None
    return torch.from_numpy(np.concatenate(part.reference)).to(batch.tokens_T.device)


def record(stats: StepStats, part: Lane, batch: PackedBatch, terms: PreferenceTerms, logprobs_C: Tensor) -> None:
    """Add what a part gave to the sums."""
    rewards, logprobs = terms.rewards_A.tolist(), sums_of(logprobs_C, batch).tolist()
    sides = [True, False] * len(part.groups) if part.labels is None else part.labels
    for good, reward, logprob, length in zip(sides, rewards, logprobs, batch.lengths, strict=True):
        side = "chosen" if good else "rejected"
        for name, value in ((side, 1), (f"reward {side}", reward)):
            stats.add(name, value)
        stats.add(f"logprob {side}", logprob)
        stats.add(f"tokens {side}", length)
    margins = terms.margins_B.tolist()
    stats.add("examples", len(margins))
    stats.add("loss", float(terms.loss_B.detach().double().sum()))
    stats.add("margin", sum(margins))
    stats.add("right", sum(margin > 0 for margin in margins))


def answer_logprobs(model: LanguageModel, groups: Sequence[PackedGroup], limit: int) -> list[Values]:
    """[answers] log-probabilities of the answers of each group, the sums over their tokens; no graph."""
    found: list[Values] = []
    for part in within(groups, lambda group: group.input_tokens, limit):
        batch = pack(part, model.device)
        with span("reference", batch.input_tokens, batch.target_tokens):
            sums = sums_of(model.completion_logprobs(batch)[0], batch).cpu().numpy()
        found += np.split(sums, np.cumsum([len(group.completions) for group in part])[:-1])
    return found


def estimate_kl(model_logprobs: Sequence[Values], reference_logprobs: Sequence[Values]) -> float:
    """KTO's estimate of KL(policy || reference): the mean log-ratio of answers to other prompts, at least 0."""
    ratios = [float(mine[0] - theirs[0]) for mine, theirs in zip(model_logprobs, reference_logprobs, strict=True)]
    return max(sum(ratios) / len(ratios), 0.0) if ratios else 0.0
