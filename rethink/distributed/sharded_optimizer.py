"""AdamW on shards: each trainer rank has a part of the rows of every weight, of its gradient and of both moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rethink.distributed.gloo import Lost
from rethink.distributed.sharded_checkpoint import read_shards, write_shards
from rethink.distributed.sharded_group import ShardedGroup
from rethink.distributed.sharded_model import pad, sharded, whole_weights
from rethink.errors import RunFolderError
from rethink.kernels.adamw import Update, adamw_
from rethink.machine.allocator import return_free_memory
from rethink.model.language_model import LanguageModel
from rethink.runs.optimizer import UPDATES, WEIGHT, clipping

if TYPE_CHECKING:
    from rethink.recipe.schema import OptimizerSection


class ShardedAdamW:
    """See `runs.optimizer.Optimizer`. The first rank also has the whole model, in the compute dtype: it samples, is
    evaluated and saved, and gets the new weights after each update.

    Args:
        ranks: the group.
        model: whole. Its weights count on the first rank; the others need its shape alone.
        section: rate and constants.
        exact: on the first rank, see `MasterAdamW`.
        lanes: of the run.
        limit: tokens of a micro-batch.
    """

    def __init__(
        self,
        ranks: ShardedGroup,
        model: LanguageModel,
        section: OptimizerSection,
        exact: dict[str, Tensor] | None,
        lanes: int,
        limit: int,
    ):
        self.ranks, self.device, self.lanes = ranks, ranks.sharding.device, lanes
        self.trained = sharded(model, ranks.sharding)
        self._section, self._limit, self._updates = section, limit, 0
        self._model, self._dtype = model if ranks.rank == 0 else None, model.dtype
        self._weights: dict[str, Any] = dict(self.trained.module.named_parameters())
        whole = whole_weights(model)
        with ranks.exchanging("the first weights"):
            for name, weight in self._weights.items():
                self._fill(weight, (exact or {}).pop(name, whole[name]))
        shards = {name: _shard(weight) for name, weight in self._weights.items() if weight.requires_grad}
        self._means = {name: torch.zeros_like(shard) for name, shard in shards.items()}
        self._squares = {name: torch.zeros_like(shard) for name, shard in shards.items()}
        return_free_memory()

    def _fill(self, weight: Any, source: Tensor) -> None:
        """Give each rank its rows of the first rank's weight."""
        value = torch.empty(source.shape, dtype=weight.dtype, device=self.device)
        if self.ranks.rank == 0:
            value.copy_(source.detach())
        self.ranks.broadcast(value)
        if isinstance(weight, DTensor):
            rows = value.chunk(self.ranks.size)  # as FSDP cuts; of fewer rows than ranks, the last ranks have none
            value = rows[self.ranks.rank] if self.ranks.rank < len(rows) else value[:0]
        shard = _shard(weight)
        assert shard.shape == value.shape
        shard.copy_(value)

    def passes(self, pieces: Callable[[Any, int], list[int]] | None, lanes: Sequence[Any]) -> list[int]:
        """See `Optimizer.passes`."""
        assert pieces is not None, "kinds without are refused at the start"
        each = [self.trained.passes_of(pieces(lane, self._limit)) for lane in lanes]
        return [max(each[first : first + self.ranks.size]) for first in range(0, len(each), self.ranks.size)]

    def pad(self, passes: int) -> None:
        """See `Optimizer.pad`."""
        pad(self.trained, passes)

    def add_round(self, lanes: int) -> None:
        """See `Optimizer.add_round`: each pass has added its gradients up already."""

    def step(self, learning_rate: float) -> float:
        """See `Optimizer.step`."""
        self.ranks.order("update", rate=learning_rate)
        with self.ranks.exchanging("the sums of gradients"):
            gradients = self._gradients()
            norm = self._norm(gradients)
        section, scale = self._section, clipping(self._section, norm)
        self._updates += 1
        update = Update(self._updates, learning_rate, section.beta1, section.beta2, section.epsilon, scale)
        for name, gradient in gradients.items():
            weight, moments = self._weights[name], (self._means[name], self._squares[name])
            decay = section.weight_decay if weight.ndim >= 2 else 0.0
            adamw_(_shard(weight), None, gradient, *moments, decay, update)
            weight.grad = None
        self._gather()
        return norm

    def _gradients(self) -> dict[str, Tensor]:
        """The gradients of this rank's shards; those of weights that every rank has whole are added up here."""
        found, apart = {}, []
        for name in self._means:
            weight = self._weights[name]
            gradient = weight.grad
            found[name] = torch.zeros_like(self._means[name]) if gradient is None else _shard(gradient)
            if not isinstance(weight, DTensor):
                apart.append(found[name])
        if apart:
            joined = torch.cat([gradient.reshape(-1) for gradient in apart])
            self.ranks.sum(joined)
            for gradient, part in zip(apart, joined.split([g.numel() for g in apart]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return found

    def _norm(self, gradients: Mapping[str, Tensor]) -> float:
        """Of the whole gradient, the same on every rank."""
        squares = torch.zeros(len(gradients), dtype=torch.float64, device=self.device)
        for place, (name, gradient) in enumerate(gradients.items()):
            if isinstance(self._weights[name], DTensor) or self.ranks.rank == 0:
                squares[place] = torch.linalg.vector_norm(gradient).double() ** 2
        self.ranks.sum(squares)
        return math.sqrt(float(squares.sum()))

    @torch.no_grad()
    def _gather(self) -> None:
        """Put the whole model together on the first rank, one weight at a time."""
        whole = {} if self._model is None else whole_weights(self._model)
        with self.ranks.exchanging("weights for the whole model"):
            for name in self._means:
                weight: Any = self._weights[name].detach()
                if isinstance(weight, DTensor):
                    part: Any = weight.to(self._dtype)
                    weight = part.full_tensor()
                if name in whole:
                    whole[name].copy_(weight)

    def write(self, folder: Path) -> None:
        """See `Optimizer.write`: each rank writes its shards into the folder, which all ranks reach by this path."""
        self.ranks.order("write", folder=str(folder))
        if failed := self.ranks.failure_of(lambda: self._write(folder)):
            raise OSError(failed)

    def _write(self, folder: Path) -> None:
        whole = self.ranks.rank == 0
        state = {key: value for key, value in self.state().items() if whole or isinstance(value, DTensor)}
        write_shards(folder, state, self.ranks.rank, self.ranks.size)

    def read(self, folder: Path) -> None:
        """See `Optimizer.read`: any number of ranks may have written it."""
        self.ranks.order("read", folder=str(folder))
        if failed := self.ranks.failure_of(lambda: self._read(folder)):
            raise RunFolderError(f"the checkpoint `{folder}` cannot be read by all trainer ranks ({failed})")
        self.ranks.order("gather")
        self._gather()

    def _read(self, folder: Path) -> None:
        state = self.state()
        read_shards(folder, state)
        self._updates = int(state[UPDATES])

    def state(self) -> dict[str, Tensor]:
        """What resuming needs, over the memory of this rank's shards."""
        out: dict[str, Tensor] = {UPDATES: torch.tensor([self._updates], dtype=torch.int64)}
        for name, weight in self._weights.items():
            out[f"{WEIGHT}.{name}"] = weight.detach()
            if name in self._means:
                out[f"exp_avg.{name}"] = _like(weight, self._means[name])
                out[f"exp_avg_sq.{name}"] = _like(weight, self._squares[name])
        return out

    def obey(self, name: str, facts: Mapping[str, Any]) -> None:
        """See `Optimizer.obey`."""
        if name == "update":
            self.step(facts["rate"])
        elif name == "gather":
            self._gather()
        else:
            do = {"write": self._write, "read": self._read}[name]
            self.ranks.failure_of(lambda: do(Path(facts["folder"])))


def join_sharded(
    meeting: Path,
    rank: int,
    size: int,
    device: str,
    recompute: bool,
    lost: Lost,
    end: Callable[[], None] = lambda: None,
) -> ShardedGroup:
    """A `ShardedGroup` whose optimizers shard weights; its arguments."""
    group = ShardedGroup(meeting, rank, size, device, recompute, lost, end)
    group.sharded = partial(ShardedAdamW, group)
    return group


def _shard(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    part: Tensor = tensor.detach()
    return part.to_local() if isinstance(part, DTensor) else part


def _like(weight: Any, part: Tensor) -> Tensor:
    """A part as what it is of a tensor that is sharded as the weight."""
    if not isinstance(weight, DTensor):
        return part
    made: Tensor = DTensor.from_local(
        part, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
    return made
