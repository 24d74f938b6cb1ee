"""AdamW on fp32 weights, with gradients added up in fp32 as the backward pass makes them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rethink.errors import NumericsError, RunFolderError
from rethink.kernels.adamw import Update, adamw_, join, split
from rethink.kernels.trace import traced
from rethink.machine.allocator import return_free_memory
from rethink.runs.lanes import balanced
from rethink.runs.parts import Parts, write_parts
from rethink.runs.ranks import ALONE, Ranks

if TYPE_CHECKING:  # the GPU check runs where nothing reads recipes
    from rethink.recipe.schema import OptimizerSection

WEIGHT, UPDATES = "weight", "updates"
"""Names in a state: of the weights' part, and of the count of updates."""


class Trainable(Protocol):
    """What has weights to train: a language model, a reward model."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Trainable leaf tensors in a fixed order, each once."""
        ...


class Optimizer(Protocol):
    """What a run asks of whatever holds weights, gradients and moments: `MasterAdamW`, or one that shards them."""

    ranks: Ranks
    """Among whom the work is divided. What follows is called on the first of them; `obey` does it on the others."""
    lanes: int
    """Parts of a step, see `lanes.py`."""
    device: torch.device
    """Of the weights."""
    trained: Any
    """The model, of the run's kind, whose backward passes leave their gradients here."""

    def passes(self, pieces: Callable[[Any, int], list[int]] | None, lanes: Sequence[Any]) -> list[int]:
        """Passes over the model of each round of these lanes, where all ranks must make equally many; else none.

        Args:
            pieces: see `Lanes.pieces`.
            lanes: of a step, a rank each in turn.
        """
        ...

    def pad(self, passes: int) -> None:
        """Make passes without gradients until this round has so many."""
        ...

    def add_round(self, lanes: int) -> None:
        """Add what this rank and the others collected, a lane each, to the step's gradient, and collect anew.

        Args:
            lanes: of this round: those of the first so many ranks.
        """
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, clear the gradients. Returns the norm before clipping.

        Raises:
            NumericsError: a gradient is not finite; nothing was changed.
        """
        ...

    def write(self, folder: Path) -> None:
        """Write all that resuming needs into the folder of a checkpoint."""
        ...

    def read(self, folder: Path) -> None:
        """Inverse of `write`, on any number of ranks: the model's weights too.

        Raises:
            RunFolderError: it cannot be read, or was written in another form.
        """
        ...

    def obey(self, name: str, facts: Mapping[str, Any]) -> None:
        """On another rank than the first: what an order of that name asks of an optimizer."""
        ...


class MasterAdamW:
    """AdamW (arXiv 1711.05101) whose weights and state are fp32 whatever the model computes in.

    A bf16 model's own weights are the upper halves of the fp32 ones, the masters; the lower halves are kept here
    (`kernels.adamw`). Models in fp32 or fp64 are their own masters.
    Gradients of every backward pass are added to fp32 buffers at once, so that accumulation over micro-batches loses
    nothing: by the kernels themselves, which find the buffer on the weight (`main_grad`), or by a hook.
    Weight decay applies to matrices, not to norms and biases.

    Args:
        model: what is trained.
        section: rate and constants.
        exact: fp32 values, by parameter name, that the model's weights were rounded from (`build.exact_weights`);
            they are taken out one by one, so that their memory serves what is made here. A master that starts from a
            rounded weight lies in the middle of its rounding interval, and small updates would not show before they
            have added up to half of it.
        ranks: among whom the work is divided. Each gives its tensors to one owner (`balanced` by size), which has their
            lower halves and moments.
        lanes: parts of a step whose gradients are added up one by one (`lanes.py`); more than one takes a second set of
            fp32 gradients, of this rank's tensors.
    """

    def __init__(
        self,
        model: Trainable,
        section: OptimizerSection,
        exact: dict[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
        lanes: int = 1,
    ):
        self.ranks, self.lanes, self.trained = ranks, lanes, model
        self._weights = dict(model.named_parameters())
        self.device = next(iter(self._weights.values())).device
        places = balanced([weight.numel() for weight in self._weights.values()], ranks.size)
        self._owners = dict(zip(self._weights, places, strict=True))
        self._low: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        for name, weight in self._weights.items():
            start = weight.detach()
            ranks.hand_out(start, start, None)
            if weight.dtype == torch.bfloat16:
                self._start_low(name, weight, exact)
            self._gradients[name] = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            weight.main_grad = self._gradients[name]  # type: ignore[attr-defined]
            weight.register_post_accumulate_grad_hook(_collect)
        own = {name: gradient for name, gradient in self._gradients.items() if self._owners[name] == ranks.rank}
        self._divided = lanes > 1 or ranks.size > 1
        self._totals = (
            own if not self._divided else {name: torch.zeros_like(gradient) for name, gradient in own.items()}
        )
        # Moments at once, below whatever a step takes and gives back: made in the first step they would lie between.
        self._means = {name: torch.zeros_like(gradient) for name, gradient in own.items()}
        self._squares = {name: torch.zeros_like(gradient) for name, gradient in own.items()}
        self._updates = 0
        self._section = section
        return_free_memory()

    def _start_low(self, name: str, weight: Tensor, exact: dict[str, Tensor] | None) -> None:
        """The lower half of a weight, on its owner: rounding is the model's, so only what it took away is news."""
        owner, first = self._owners[name], self.ranks.rank == 0
        source = split(exact.pop(name) if exact else weight.detach().float())[1] if first else None
        if owner == self.ranks.rank:
            self._low[name] = source if source is not None else torch.zeros_like(weight, dtype=torch.int16)
        self.ranks.hand_out(source, self._low.get(name), owner)

    def gradients(self) -> dict[str, Tensor]:
        """The fp32 gradients collected since the last step, or the last round of lanes, by parameter name."""
        return dict(self._gradients)

    def clear(self) -> None:
        """Forget the gradients that were collected."""
        for gradient in self._gradients.values():
            gradient.zero_()

    def passes(self, pieces: Callable[[Any, int], list[int]] | None, lanes: Sequence[Any]) -> list[int]:
        """See `Optimizer.passes`: each rank computes for itself."""
        return []

    def pad(self, passes: int) -> None:
        """See `Optimizer.pad`: never needed."""

    def add_round(self, lanes: int) -> None:
        """See `Optimizer.add_round`."""
        if not self._divided:
            return  # it is the step's gradient already
        self.ranks.add(self._gradients, self._totals, self._owners, lanes)
        self.clear()

    def masters(self) -> dict[str, Tensor]:
        """The fp32 weights by parameter name: copies, where the model computes in bf16."""
        return {
            name: join(weight, self._low[name]) if name in self._low else weight.detach()
            for name, weight in self._weights.items()
        }

    def step(self, learning_rate: float) -> float:
        """See `Optimizer.step`: the masters, and with them the model."""
        self.ranks.order("update", rate=learning_rate)
        own = {name: float(torch.linalg.vector_norm(total)) ** 2 for name, total in self._totals.items()}
        squares = self.ranks.numbers(own)
        norm = math.sqrt(sum(squares[name] for name in self._weights))
        section, scale = self._section, clipping(self._section, norm)
        self._updates += 1
        update = Update(self._updates, learning_rate, section.beta1, section.beta2, section.epsilon, scale)
        for name, total in self._totals.items():
            weight, moments = self._weights[name], (self._means[name], self._squares[name])
            decay = section.weight_decay if weight.ndim >= 2 else 0.0
            adamw_(weight, self._low.get(name), total, *moments, decay, update)
        self.ranks.share({name: weight.detach() for name, weight in self._weights.items()}, self._owners)
        return norm

    def state(self) -> dict[str, Tensor]:
        """What resuming needs of this rank's tensors: weights in both halves, both moments, count of updates."""
        out = {key: target for key, target, owner in self._entries() if owner == self.ranks.rank and target is not None}
        return out | {UPDATES: torch.tensor([self._updates], dtype=torch.int64)}

    def states(self) -> Iterator[dict[str, Tensor]]:
        """The state of each rank, one at a time: all that resuming needs."""
        self.ranks.order("state")
        yield from self.ranks.states(self.state())

    def write(self, folder: Path) -> None:
        """See `Optimizer.write`: a file of each rank."""
        write_parts(folder, self.states(), self.ranks.size)

    def read(self, folder: Path) -> None:
        """See `Optimizer.read`."""
        self.load(Parts(folder))

    def obey(self, name: str, facts: Mapping[str, Any]) -> None:
        """See `Optimizer.obey`."""
        if name == "update":
            self.step(facts["rate"])
        elif name == "load":
            self.load(None)
        elif name == "state":
            list(self.states())

    def load(self, state: Mapping[str, Tensor] | None) -> None:
        """Inverse of `states` together, read on any number of ranks: the model's weights too.

        Args:
            state: on the first rank; the others get theirs from it.

        Raises:
            RunFolderError: the state was written by an earlier version, which kept it in another form.
        """
        if state is not None and not state.keys() >= {UPDATES, *(key for key, _, _ in self._entries())}:
            raise RunFolderError(
                "this checkpoint is of an earlier version, which kept weights in another form: resume it with that "
                "version, or start anew with another --out (model.path=RUN/model goes on from its last model)"
            )
        self.ranks.order("load")
        for key, target, owner in self._entries():
            everywhere = key.startswith(f"{WEIGHT}.")
            self.ranks.hand_out(None if state is None else state[key], target, None if everywhere else owner)
        updates = torch.tensor([self._updates], dtype=torch.int64)
        self.ranks.hand_out(None if state is None else state[UPDATES], updates, None)
        self._updates = int(updates)

    def _entries(self) -> Iterator[tuple[str, Tensor | None, int]]:
        """(key in a state, the tensor where this rank has it, its owner) of the whole optimizer, in the same order on
        every rank.
        """
        for name, weight in self._weights.items():
            owner = self._owners[name]
            yield f"{WEIGHT}.{name}", weight.detach(), owner
            if weight.dtype == torch.bfloat16:
                yield f"low.{name}", self._low.get(name), owner
            yield f"exp_avg.{name}", self._means.get(name), owner
            yield f"exp_avg_sq.{name}", self._squares.get(name), owner


def open_optimizer(
    model: Trainable, section: OptimizerSection, exact: dict[str, Tensor] | None, ranks: Ranks, lanes: int, limit: int
) -> Optimizer:
    """`MasterAdamW`, or what the ranks have in its place. `limit`: most tokens of a micro-batch; the rest as there."""
    if ranks.sharded is None:
        return MasterAdamW(model, section, exact, ranks, lanes)
    made: Optimizer = ranks.sharded(model, section, exact, lanes, limit)
    return made


def clipping(section: OptimizerSection, norm: float) -> float:
    """What gradients of this norm are multiplied with.

    Raises:
        NumericsError: the norm is not finite.
    """
    if not math.isfinite(norm):
        raise NumericsError(
            "the gradient is not finite (NaN or infinity), so this step was not taken; what was saved is "
            "untouched. These values are part of what a run is, so start anew with another --out and a lower "
            "optimizer.learning_rate, with optimizer.max_grad_norm set, or with model.dtype=float32"
        )
    most = section.max_grad_norm
    return most / norm if most is not None and norm > most else 1.0


def learning_rate(section: OptimizerSection, step: int, total: int) -> float:
    """Rate of update number `step` (0-based) of `total`: linear warm-up, then the schedule down to `final_rate`.

    Every update has a rate above 0: the first of a warm-up has a part of the peak, and the schedule arrives at
    `final_rate` after the last update, as the schedules of transformers do.
    """
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    if section.schedule == "constant":
        return section.learning_rate
    span = max(total - section.warmup_steps, 1)
    progress = min((step - section.warmup_steps) / span, 1.0)
    fall = section.learning_rate - section.final_rate
    if section.schedule == "linear":
        return section.learning_rate - fall * progress
    return section.final_rate + fall * (1 + math.cos(math.pi * progress)) / 2


@traced("optimizer")
def apply_update(optimizer: Optimizer, section: OptimizerSection, step: int, total: int) -> dict[str, float]:
    """Update number `step` (0-based) of `total`, with the gradients that the optimizer holds. Returns its metrics.

    Raises:
        NumericsError: see `Optimizer.step`.
    """
    started = time.perf_counter()
    rate = learning_rate(section, step, total)
    norm = optimizer.step(rate)
    return {
        "optimizer/learning_rate": rate,
        "optimizer/grad_norm": norm,
        "time/optimizer": time.perf_counter() - started,
        **optimizer.ranks.metrics(),
    }


def _collect(weight: Tensor) -> None:
    """Hook of a weight: what a backward pass leaves in `grad` goes to `main_grad`.

    It holds nothing itself. torch keeps hooks where the garbage collector does not look, so one that held the optimizer
    would keep it, and the weights, for the life of the process.
    """
    if weight.grad is not None:
        gradient: Tensor = weight.main_grad  # type: ignore[attr-defined]
        if weight.grad is not gradient:
            gradient.add_(weight.grad)
        weight.grad = None
