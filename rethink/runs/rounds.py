"""A step's lanes, computed in rounds: by this process alone, or by all ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from rethink.runs.choices import recorded_lanes
from rethink.runs.lanes import Lanes
from rethink.runs.optimizer import Optimizer, Trainable, open_optimizer
from rethink.runs.ranks import Shared, start_ranks

if TYPE_CHECKING:
    from rethink.model.loading import Checkpoint
    from rethink.recipe.base import TrainingRecipe

L = TypeVar("L")
S = TypeVar("S")


def shared_optimizer(
    recipe: TrainingRecipe,
    checkpoint: Checkpoint,
    model: Trainable,
    exact: dict[str, Tensor],
    choices: Mapping[str, Any],
) -> Optimizer:
    """The optimizer of a run, with the ranks that share its steps.

    Args:
        recipe: of the run.
        checkpoint: of its model.
        model: built from the checkpoint by the `build` of its kind's lanes.
        exact: see `MasterAdamW`.
        choices: of the run.

    Raises:
        UsageError: the run computes where ranks cannot.
        RankLost: a rank did not start.
    """
    ranks = start_ranks(Shared(recipe, checkpoint, choices))
    lanes, limit = recorded_lanes(choices), int(choices["micro_batch_tokens"])
    return open_optimizer(model, recipe.optimizer, exact, ranks, lanes, limit)


def train_lanes(
    optimizer: Optimizer, lanes: Sequence[L], compute: Callable[[L], S], kind: Lanes[L, S], step: int
) -> list[S]:
    """The gradients of a step's lanes, added up in their order. Returns the statistics of each.

    In rounds: each rank computes one lane, then all exchange. Without other ranks, a round is a lane.

    Args:
        optimizer: of the first rank; it holds the sum afterwards.
        lanes: of the step.
        compute: forward and backward of one lane, here.
        kind: takes lanes to other ranks, and computes them there.
        step: 0-based.

    Raises:
        RunFailure: as `compute`, here or elsewhere; or a rank was lost.
    """
    ranks, found = optimizer.ranks, []
    each = [[kind.pack(lane) for lane in lanes[rank :: ranks.size]] for rank in range(1, ranks.size)]
    passes = optimizer.passes(kind.pieces, lanes)
    ranks.order("lanes", each, number=len(lanes), step=step, passes=passes)
    for turn, first in enumerate(range(0, len(lanes), ranks.size)):
        there = min(ranks.size, len(lanes) - first)
        found.append(compute(lanes[first]))
        if passes:
            optimizer.pad(passes[turn])
        found += [kind.statistics(**facts) for facts in ranks.reports(there)]
        optimizer.add_round(there)
    return found
