"""The gradients of a fine-tuning step: documents in rows without padding, the loss of their trained tokens.

The loss is the mean negative log-likelihood of the trained tokens (the assistant's), over all of them or document by
document. Documents stand in one row and see only themselves; what several begin with alike stands once.

Axes: C trained tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from rethink.algorithms.aggregation import token_weights
from rethink.kernels.trace import span, traced
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.model.text.training_text import Document
from rethink.runs.lanes import cut, within
from rethink.runs.numerics import finite_loss


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """What is computed of a step, or of a part of it."""

    documents: Sequence[Document]
    counted: tuple[int, int]
    """(documents, trained tokens) of the whole step, which the loss's denominators count."""


def lanes_of(documents: Sequence[Document], number: int) -> list[Lane]:
    """The documents of a step in at most so many lanes of about equal size, each in its order."""
    counted = len(documents), sum(document.target_tokens for document in documents)
    sizes = [len(document.token_ids) for document in documents]
    return [Lane([documents[place] for place in places], counted) for places in cut(sizes, number)]


@dataclass(slots=True)
class StepStats:
    """Sums over a step."""

    loss: float = 0.0
    entropy: float = 0.0
    tokens: int = 0
    """Trained tokens."""
    input_tokens: int = 0
    """Tokens that went through the model: what documents begin with alike once, last tokens not at all."""

    @staticmethod
    def merged(parts: Sequence[StepStats]) -> StepStats:
        """The sums of a step from those of its lanes, in their order."""
        return StepStats(*(sum(values) for values in zip(*map(astuple, parts), strict=True)))

    def metrics(self) -> dict[str, float]:
        """As the metrics file has them."""
        return {
            "train/loss": self.loss,
            "train/entropy": self.entropy / self.tokens,
            "train/tokens": self.tokens,
            "train/input_tokens": self.input_tokens,
        }


@traced("training")
def accumulate_gradients(
    recipe: SFTRecipe, model: LanguageModel, reference: None, lane: Lane, step: int, limit: int
) -> StepStats:
    """Forward and backward of a lane; gradients go where the parameters' hooks put them. There is no reference model.

    Args:
        recipe: its `aggregation` says what the loss is averaged over.
        step: 0-based number of the update, for errors.
        limit: most input tokens in one pass; a longer document has a pass of its own.

    Raises:
        NumericsError: the loss is not finite; no update was made.
    """
    documents, tokens = lane.counted
    stats = StepStats()
    for batch in micro_batches(lane.documents, limit, model.device):
        weights_C = token_weights(
            torch.tensor(batch.lengths),
            recipe.aggregation,
            total_completions=documents,
            total_tokens=tokens,
            dtype=torch.promote_types(model.dtype, torch.float32),
        ).to(model.device)

        def objective(logprobs_C: Tensor, part: slice) -> Tensor:
            return -(weights_C[part] * logprobs_C).sum()  # noqa: B023

        with span("forward", batch.input_tokens, batch.target_tokens):
            loss, _, entropies_C = model.completion_loss(batch, objective)
        value = finite_loss(loss, step)
        with span("backward"):
            loss.backward()
        stats.loss += value
        stats.entropy += float(entropies_C.double().sum())
        stats.tokens += batch.target_tokens
        stats.input_tokens += batch.input_tokens
    return stats


def micro_batches(documents: Sequence[Document], limit: int, device: torch.device) -> Iterator[PackedBatch]:
    """Documents, in order, packed into rows of at most `limit` input tokens; a longer one has a row of its own."""
    for groups in within(map(packed_group, documents), lambda group: group.input_tokens, limit):
        yield pack(groups, device)


def packed_group(document: Document) -> PackedGroup:
    """A document as a prompt (what comes before its first trained token) and the rest, of which some is trained."""
    first = int(document.trained.argmax())
    rest = document.trained[first:]
    return PackedGroup(
        document.token_ids[:first].tolist(),
        [document.token_ids[first:].tolist()],
        None if rest.all() else [rest.tolist()],
    )
