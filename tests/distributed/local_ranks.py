"""Trainer ranks as threads of this process: the real orders, lanes and sums, over queues."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rethink.distributed.rank_group import Group
from rethink.distributed.rank_process import Rank, train_rounds
from rethink.machine.placement import Placement
from rethink.model.loading import load_checkpoint
from rethink.recipe.kind import kind_named
from rethink.runs.lanes import Arrays
from rethink.runs.optimizer import Optimizer
from rethink.runs.ranks import Launch, Ranks, Shared, launched_by

Lines = dict[tuple[int, int], "queue.Queue[Tensor | None]"]


def lines_of(size: int) -> Lines:
    """A line from each rank to each."""
    return {(a, b): queue.Queue() for a in range(size) for b in range(size)}


class Queues:
    """See `rank_group.Wire`. A rank whose line is closed (None) ends."""

    def __init__(self, rank: int, lines: Lines):
        self.rank, self.lines = rank, lines

    def send(self, to: int, tensor: Tensor) -> Callable[[str], None]:
        self.lines[self.rank, to].put(tensor.clone())
        return lambda what: None

    def receive(self, source: int, tensor: Tensor) -> Callable[[str], None]:
        line = self.lines[source, self.rank]

        def wait(what: str) -> None:
            found = line.get(timeout=20)
            if found is None:
                line.put(None)
                raise SystemExit
            tensor.copy_(found)

        return wait


def serve(group: Group, optimizer: Optimizer, compute: Callable[[Any, Arrays], Any]) -> None:
    """As `Rank.serve` for a model without a recipe, until the order `end`. `compute(facts of the step, lane)`."""
    while True:
        name, facts, lanes = group.await_order()
        if name == "end":
            return
        if name == "lanes":
            train_rounds(group, optimizer, lanes, facts, partial(compute, facts))
        else:
            optimizer.obey(name, facts)


@contextmanager
def local_ranks(size: int) -> Iterator[None]:
    """Within, runs are shared among so many ranks."""

    def start(shared: Shared) -> Ranks:
        lines, choices = lines_of(size), shared.choices
        lanes, limit = choices["lanes"], choices["micro_batch_tokens"]

        def other(rank: int) -> None:
            checkpoint = load_checkpoint(shared.checkpoint.source)
            placement = Placement(1, choices["device"], choices["dtype"])

            def build() -> Any:
                model = kind_named(shared.recipe.kind).load("lanes").build(shared.recipe, checkpoint, placement)
                with torch.no_grad():
                    for _, weight in model.named_parameters():
                        weight.zero_()  # theirs are sent
                return model

            with contextlib.suppress(SystemExit):
                Rank(lambda: Group(Queues(rank, lines), rank, size), shared.recipe, build, lanes, limit).serve()

        threads = [threading.Thread(target=other, args=(rank,), daemon=True) for rank in range(1, size)]

        def end() -> None:
            for line in lines.values():
                line.put(None)
            for thread in threads:
                thread.join(20)

        for thread in threads:
            thread.start()
        return Group(Queues(0, lines), 0, size, end)

    with launched_by(Launch(size, 1, start)):
        yield
