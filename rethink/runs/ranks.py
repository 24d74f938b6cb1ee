"""Trainer ranks as a run sees them: processes that compute lanes of a step and own a part of the optimizer.

Every rank has all weights. Each whole parameter tensor has one owner, which adds up its gradients and holds its moments
and the lower half of its fp32 weight. The first rank is the run's own process: it alone gives orders, and it alone
writes. Here is the rank that is alone; `distributed/` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from rethink.model.language_model import LanguageModel
from rethink.runs.lanes import Arrays

if TYPE_CHECKING:  # the GPU check runs where nothing reads recipes
    from rethink.model.loading import Checkpoint
    from rethink.recipe.base import TrainingRecipe

Named = Mapping[str, Tensor]
REPLICATED, FSDP2 = "replicated", "fsdp2"
"""Strategies: each rank has all weights; each has a shard of every weight."""


class Ranks(Protocol):
    """One rank's side of the group. All ranks call `add`, `numbers`, `share` and `hand_out` in the same order."""

    @property
    def rank(self) -> int:
        """This one's number; 0 is the run's own process."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def sharded(self) -> Callable[..., Any] | None:
        """(model, section, exact, lanes, micro-batch limit) -> the optimizer (`runs.optimizer.Optimizer`) of ranks that
        have a shard of each weight. None: each has all weights.
        """
        ...

    def order(self, name: str, each: Sequence[Sequence[Arrays]] = (), **facts: Any) -> None:
        """Tell all other ranks what comes next, with arrays for each; nothing is done on other ranks than the first."""
        ...

    def reports(self, lanes: int) -> list[dict[str, Any]]:
        """What the other ranks say of the lanes of this round, of which there are so many.

        Raises:
            RunFailure: one of them failed.
        """
        ...

    def add(self, gradients: Named, totals: Named, owners: Mapping[str, int], lanes: int) -> None:
        """Add each tensor's gradients of a round to its owner's total, in the order of lanes (ranks)."""
        ...

    def numbers(self, own: Mapping[str, float]) -> dict[str, float]:
        """The numbers of all ranks by name, the same on each."""
        ...

    def share(self, tensors: Named, owners: Mapping[str, int]) -> None:
        """Make every tensor on every rank what it is on its owner."""
        ...

    def hand_out(self, source: Tensor | None, target: Tensor | None, owner: int | None) -> None:
        """Copy the first rank's `source` to its owner's `target` (None: to that of every rank)."""
        ...

    def states(self, own: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """On the first rank: its own state, then that of each other rank, one at a time."""
        ...

    def metrics(self) -> dict[str, float]:
        """Of the step that has ended."""
        ...

    def close(self) -> None:
        """End the other ranks."""
        ...


class Alone:
    """The only rank."""

    rank, size, sharded = 0, 1, None

    def order(self, name: str, each: Sequence[Sequence[Arrays]] = (), **facts: Any) -> None:
        """See `Ranks.order`: there is nobody."""

    def reports(self, lanes: int) -> list[dict[str, Any]]:
        """See `Ranks.reports`."""
        return []

    def add(self, gradients: Named, totals: Named, owners: Mapping[str, int], lanes: int) -> None:
        """See `Ranks.add`."""
        for name, gradient in gradients.items():
            totals[name].add_(gradient)

    def numbers(self, own: Mapping[str, float]) -> dict[str, float]:
        """See `Ranks.numbers`."""
        return dict(own)

    def share(self, tensors: Named, owners: Mapping[str, int]) -> None:
        """See `Ranks.share`."""

    def hand_out(self, source: Tensor | None, target: Tensor | None, owner: int | None) -> None:
        """See `Ranks.hand_out`."""
        if source is not None and target is not None and target is not source:
            target.copy_(source)

    def states(self, own: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """See `Ranks.states`."""
        yield own

    def metrics(self) -> dict[str, float]:
        """See `Ranks.metrics`."""
        return {}

    def close(self) -> None:
        """See `Ranks.close`."""


ALONE = Alone()


@dataclass(frozen=True, slots=True)
class Shared:
    """What the other ranks are started for."""

    recipe: TrainingRecipe
    checkpoint: Checkpoint
    choices: Mapping[str, Any]
    """Of the run."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a run gets other ranks."""

    size: int
    """Ranks in all."""
    threads: int
    """Of each, for runs that start here and whose recipe says nothing."""
    start: Callable[[Shared], Ranks]
    check: Callable[[Mapping[str, Any]], None] = lambda choices: None
    """Raises `UsageError` where a run with these choices cannot be shared so."""
    strategy: str = REPLICATED
    """How ranks hold weights. It decides how sums are rounded, so it is recorded at the start of a run."""


_launch: ContextVar[Launch | None] = ContextVar("launch", default=None)


@contextmanager
def launched_by(launch: Launch) -> Iterator[None]:
    """Within, runs that can be shared are shared among ranks."""
    token = _launch.set(launch)
    try:
        yield
    finally:
        _launch.reset(token)


def launch_here() -> Launch | None:
    """How a run gets other ranks here; None: not at all."""
    return _launch.get()


def start_ranks(shared: Shared) -> Ranks:
    """The ranks of a run, this process the first of them.

    Raises:
        UsageError: the run computes where ranks cannot.
        RankLost: one did not start.
    """
    launch = _launch.get()
    return ALONE if launch is None else launch.start(shared)


def share_reference(ranks: Ranks, reference: LanguageModel, *, current: bool = False) -> None:
    """Give every rank the first one's reference model.

    Args:
        ranks: the group.
        reference: whole.
        current: whether it is the model as it is now, which ranks with all weights have themselves.
    """
    sent = not current or ranks.sharded is not None
    ranks.order("reference", sent=sent)
    if sent:
        receive_reference(ranks, reference)


def receive_reference(ranks: Ranks, reference: LanguageModel) -> None:
    """Make a reference model what it is on the first rank."""
    tensors = {name: parameter.detach() for name, parameter in reference.named_parameters()}
    ranks.share(tensors, dict.fromkeys(tensors, 0))
