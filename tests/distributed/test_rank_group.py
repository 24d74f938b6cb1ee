"""Ranks as threads: whoever computes a lane, sums, norms, updates and states are the same to the bit."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.distributed.rank_group import FAILED, Group
from rethink.errors import NumericsError
from rethink.recipe.schema import OptimizerSection
from rethink.runs.lanes import Arrays, Lanes
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import ALONE, Ranks
from rethink.runs.rounds import train_lanes
from tests.distributed.local_ranks import Queues, lines_of, serve

SECTION = OptimizerSection(learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.5)
SHAPES = {"embedding": (40, 8), "norm": (8,), "up": (8, 24), "down": (24, 8)} | {
    f"bias.{n}": (5 + n,) for n in range(9)
}


class Weights:
    """A model that is some tensors; a lane's gradient is drawn by its number."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        self.exact = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
        self.tensors = {n: exact.clone().to(dtype).requires_grad_() for n, exact in self.exact.items()}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.tensors.items()

    def backward(self, step: int, lane: int) -> None:
        generator = torch.Generator().manual_seed(100 * step + lane)
        for weight in self.tensors.values():
            weight.main_grad.add_(torch.randn(weight.shape, generator=generator) * 10.0**lane)  # type: ignore[attr-defined]


@dataclasses.dataclass
class Number:
    """Of a lane."""

    lane: int


NUMBERS = Lanes(
    build=lambda *_: None,
    compute=lambda *_: Number(0),
    pack=lambda lane: {"lane": np.array(lane)},
    unpack=lambda arrays: tuple(arrays["lane"].tolist()),
    statistics=Number,
)
"""Lanes that are (step, number)."""


def trained(
    size: int, lanes: int, dtype: torch.dtype, state: dict[str, Tensor] | None = None, steps: range = range(3)
) -> tuple[dict[str, Tensor], list[float], list[int]]:
    """State after some steps, norms, and how much state each rank has."""
    lines = lines_of(size)
    groups = [Group(Queues(rank, lines), rank, size) for rank in range(size)]
    failed: list[BaseException] = []

    def other(group: Group) -> None:
        try:
            model = Weights(dtype)
            with torch.no_grad():
                for weight in model.tensors.values():
                    weight.zero_()  # theirs are sent

            def compute(facts: Any, arrays: Arrays) -> Number:
                lane = arrays["lane"].tolist()
                model.backward(*lane)
                return Number(lane[1])

            serve(group, MasterAdamW(model, SECTION, None, group, lanes), compute)  # type: ignore[arg-type]
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=other, args=(group,), daemon=True) for group in groups[1:]]
    for thread in threads:
        thread.start()
    ranks: Ranks = groups[0] if size > 1 else ALONE
    model = Weights(dtype)
    optimizer = MasterAdamW(model, SECTION, model.exact, ranks, lanes)  # type: ignore[arg-type]
    if state is not None:
        optimizer.load(state)
    norms = []
    for step in steps:
        asked = [(step, n) for n in range(lanes)]
        found = train_lanes(optimizer, asked, lambda lane: (model.backward(*lane), Number(lane[1]))[1], NUMBERS, step)
        assert [number.lane for number in found] == list(range(lanes)), "statistics come in the order of lanes"
        norms.append(optimizer.step(0.01))
    parts = [{k: t.clone() for k, t in part.items()} for part in optimizer.states()]
    ranks.order("end")
    for thread in threads:
        thread.join(20)
    assert not failed
    return {k: t for part in parts for k, t in part.items()}, norms, [sum(t.numel() for t in p.values()) for p in parts]


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_one(lanes: int, dtype: torch.dtype) -> None:
    alone, norms, _ = trained(1, lanes, dtype)
    for size in (2, 3):
        state, others, sizes = trained(size, lanes, dtype)
        same(alone, state)
        assert norms == others
        assert len(sizes) == size
        assert max(sizes) < 0.75 * sum(t.numel() for t in alone.values())


def test_the_order_of_lanes_shows_in_the_sums() -> None:
    """Else the equalities above would say nothing."""
    sums = []
    for order in ([0, 1, 2], [2, 1, 0]):
        model = Weights(torch.float32)
        MasterAdamW(model, SECTION)  # type: ignore[arg-type]
        for lane in order:
            model.backward(0, lane)
        sums.append(model.tensors["up"].main_grad)  # type: ignore[attr-defined]
    assert not torch.equal(*sums)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 1), (3, 2)])
def test_a_state_goes_on_at_another_number_of_ranks(before: int, after: int) -> None:
    whole, norms, _ = trained(1, 2, torch.bfloat16)
    half, first, _ = trained(before, 2, torch.bfloat16, steps=range(2))
    rest, last, _ = trained(after, 2, torch.bfloat16, half, range(2, 3))
    same(whole, rest)
    assert first + last == norms


def test_a_lane_that_fails_elsewhere_stops_the_step() -> None:
    lines = lines_of(2)
    first, second = (Group(Queues(rank, lines), rank, 2) for rank in range(2))
    second.report({FAILED: "the loss of step 3 is nan"})
    with pytest.raises(NumericsError, match="step 3 is nan"):
        first.reports(2)
