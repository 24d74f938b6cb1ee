"""The gradients of a reward model's step: scores of the responses, their loss.

Axes: S responses of a micro-batch, B its examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rethink.algorithms.preference import bradley_terry_loss, pointwise_loss
from rethink.kinds.reward_model.examples import Example
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.model.heads.value_head import RewardModel
from rethink.runs.lanes import cut, within
from rethink.runs.numerics import finite_loss


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What is computed of a step, or of a part of it."""

    examples: Sequence[Example]
    counted: int
    """Examples of the whole step, over which the loss is the mean."""


def lanes_of(examples: Sequence[Example], number: int) -> list[Lane]:
    """The examples of a step in at most so many lanes of about equal size, each in its order."""
    places = cut([example.tokens for example in examples], number)
    return [Lane([examples[place] for place in lane], len(examples)) for lane in places]


@dataclass(slots=True)
class StepStats:
    """What a step's lanes gave."""

    loss: float = 0.0
    margins: list[float] = field(default_factory=list)
    """See `Judged.margin`; of each example."""

    @staticmethod
    def merged(parts: Sequence[StepStats]) -> StepStats:
        """Of the step, from those of its lanes, in their order."""
        return StepStats(sum(part.loss for part in parts), [margin for part in parts for margin in part.margins])


@dataclass(frozen=True, slots=True)
class Judged:
    """One example with the scores of its responses."""

    example: Example
    scores: tuple[float, ...]

    @property
    def margin(self) -> float:
        """By how much the right side is ahead: chosen less rejected, or the score with the label's sign."""
        if len(self.scores) == 2:
            return self.scores[0] - self.scores[1]
        return self.scores[0] if self.example.preference.label else -self.scores[0]

    @property
    def right(self) -> bool:
        """Whether the right side is ahead; a tie of scores is no success."""
        return self.margin > 0


def micro_batches(examples: Sequence[Example], limit: int) -> Iterator[list[Example]]:
    """Examples, in order, in parts of at most `limit` tokens; a single example is never cut."""
    return within(examples, lambda example: example.tokens, limit)


def losses(scores_S: Tensor, examples: Sequence[Example]) -> Tensor:
    """Loss [B] of each example from the scores of its responses, which stand in order."""
    if examples[0].preference.label is None:
        return bradley_terry_loss(scores_S[0::2], scores_S[1::2])
    labels = torch.tensor([e.preference.label for e in examples], dtype=scores_S.dtype, device=scores_S.device)
    return pointwise_loss(scores_S, labels)


def accumulate_gradients(
    recipe: RewardModelRecipe, model: RewardModel, reference: None, lane: Lane, step: int, limit: int
) -> StepStats:
    """Forward and backward of a lane; gradients go where the parameters' hooks put them. There is no reference model.

    Args:
        step: 0-based update number, for messages.
        limit: most tokens in one pass.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    stats = StepStats()
    for part in micro_batches(lane.examples, limit):
        scores_S = model.scores([example.group for example in part])
        loss = losses(scores_S, part).sum() / lane.counted
        value = finite_loss(loss, step)
        loss.backward()
        stats.loss += value
        stats.margins += [entry.margin for entry in judged_by(scores_S, part)]
    return stats


def judged_by(scores_S: Tensor, examples: Sequence[Example]) -> list[Judged]:
    """The examples with the scores of their responses, which stand in order."""
    values = iter(scores_S.detach().tolist())
    return [Judged(e, tuple(next(values) for _ in e.group.completions)) for e in examples]
