"""Trainer ranks that exchange tensors one to one: the same sums whoever computes a lane.

A gradient goes from each rank to the tensor's owner, which adds them in the order of ranks, which is that of lanes. So
a sum is one left fold, whatever the number of ranks; rings and trees would round it in another order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rethink.errors import NumericsError
from rethink.runs.lanes import Arrays
from rethink.runs.ranks import Named

FAILED = "failed"
"""Key of a report in place of statistics: what a lane failed of."""


class Wire(Protocol):
    """Tensors from rank to rank; those between two ranks keep their order."""

    def send(self, to: int, tensor: Tensor) -> Callable[[str], None]:
        """Begin to send a contiguous tensor, which must not change until the returned function has returned; it takes
        what is sent, in words, for errors.
        """
        ...

    def receive(self, source: int, tensor: Tensor) -> Callable[[str], None]:
        """Begin to receive into a contiguous tensor; see `send`."""
        ...


class Group:
    """See `runs.ranks.Ranks`.

    Args:
        wire: to the other ranks. Its errors say who is lost.
        rank: this one's number.
        size: how many there are.
        end: ends the other ranks; called on the first.
    """

    def __init__(self, wire: Wire, rank: int, size: int, end: Callable[[], None] = lambda: None):
        self.rank, self.size = rank, size
        self.sharded: Callable[..., Any] | None = None
        self._wire, self._end = wire, end
        self._others = [other for other in range(size) if other != rank]
        self._seconds = 0.0

    def order(self, name: str, each: Sequence[Sequence[Arrays]] = (), **facts: Any) -> None:
        """See `Ranks.order`."""
        if self.rank == 0:
            for rank, lanes in zip(self._others, each or [()] * len(self._others), strict=True):
                self._say(rank, {"name": name, "facts": facts}, lanes)()

    def await_order(self) -> tuple[str, dict[str, Any], list[Arrays]]:
        """On another rank: what the first says next, with its facts and arrays."""
        head, lanes = self._hear(0, "an order")
        return head["name"], head["facts"], lanes

    def reports(self, lanes: int) -> list[dict[str, Any]]:
        """See `Ranks.reports`."""
        found = []
        for rank in range(1, min(lanes, self.size)):
            facts, _ = self._hear(rank, "its part of the step")
            if FAILED in facts:
                raise NumericsError(facts[FAILED])
            found.append(facts)
        return found

    def report(self, facts: Mapping[str, Any]) -> None:
        """On another rank: what a lane gave, or failed of."""
        self._say(0, facts)()

    def add(self, gradients: Named, totals: Named, owners: Mapping[str, int], lanes: int) -> None:
        """See `Ranks.add`."""
        started, sent = time.perf_counter(), []
        if self.rank < lanes:
            for name, gradient in gradients.items():
                if owners[name] != self.rank:
                    sent.append(self._wire.send(owners[name], gradient))
        for name, total in totals.items():
            parts = {rank: torch.empty_like(total) for rank in range(lanes) if rank != self.rank}
            waits = [self._wire.receive(rank, part) for rank, part in parts.items()]
            for wait in waits:
                wait(f"the gradient of {name}")
            for rank in range(lanes):
                total.add_(parts[rank] if rank in parts else gradients[name])
        for wait in sent:
            wait("a gradient")
        self._seconds += time.perf_counter() - started

    def numbers(self, own: Mapping[str, float]) -> dict[str, float]:
        """See `Ranks.numbers`."""
        said = [self._say(rank, own) for rank in self._others]
        found = dict(own)
        for rank in self._others:
            found |= self._hear(rank, "the norms of its gradients")[0]
        for wait in said:
            wait()
        return found

    def share(self, tensors: Named, owners: Mapping[str, int]) -> None:
        """See `Ranks.share`."""
        started, waits = time.perf_counter(), []
        for name, tensor in tensors.items():
            if owners[name] != self.rank:
                waits.append(self._wire.receive(owners[name], tensor))
            else:
                waits += [self._wire.send(rank, tensor) for rank in self._others]
        for wait in waits:
            wait("a weight")
        self._seconds += time.perf_counter() - started

    def hand_out(self, source: Tensor | None, target: Tensor | None, owner: int | None) -> None:
        """See `Ranks.hand_out`."""
        if self.rank == 0:
            assert source is not None
            source = source.contiguous()
            for wait in [self._wire.send(rank, source) for rank in self._others if owner in (None, rank)]:
                wait("a tensor of its state")
            if owner in (None, 0) and target is not None and target is not source:
                target.copy_(source)
        elif owner in (None, self.rank):
            assert target is not None
            self._wire.receive(0, target)("a tensor of its state")

    def states(self, own: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """See `Ranks.states`; on another rank: send its own, and yield nothing."""
        if self.rank:
            layout = {name: [str(t.dtype).removeprefix("torch."), list(t.shape)] for name, t in own.items()}
            self._say(0, layout)()
            for name, tensor in own.items():
                self._wire.send(0, tensor.contiguous())(name)
            return
        yield own
        for rank in self._others:
            layouts, _ = self._hear(rank, "its state")
            state = {name: torch.empty(shape, dtype=getattr(torch, kind)) for name, (kind, shape) in layouts.items()}
            for name, tensor in state.items():
                self._wire.receive(rank, tensor)(f"its state ({name})")
            yield state

    def metrics(self) -> dict[str, float]:
        """See `Ranks.metrics`."""
        seconds, self._seconds = self._seconds, 0.0
        return {"time/exchange": seconds}

    def close(self) -> None:
        """See `Ranks.close`."""
        self._end()

    def _say(self, to: int, head: Mapping[str, Any], lanes: Sequence[Arrays] = ()) -> Callable[[], None]:
        """Begin to send JSON and arrays: the lengths of both, then both. Returns what waits until they are sent."""
        layout = [{name: [array.dtype.str, array.shape] for name, array in lane.items()} for lane in lanes]
        text = np.frombuffer(json.dumps([head, layout]).encode(), np.uint8)
        body = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for lane in lanes for array in lane.values()]
        data = np.concatenate([text, *body])
        sizes = torch.tensor([len(text), len(data)])
        waits = [self._wire.send(to, sizes), self._wire.send(to, torch.from_numpy(data))]

        def wait() -> None:
            for one in waits:
                one("a message")

        return wait

    def _hear(self, source: int, what: str) -> tuple[dict[str, Any], list[Arrays]]:
        """Inverse of `_say`."""
        sizes = torch.zeros(2, dtype=torch.int64)
        self._wire.receive(source, sizes)(what)
        data = torch.empty(int(sizes[1]), dtype=torch.uint8)
        self._wire.receive(source, data)(what)
        raw, at = data.numpy(), int(sizes[0])
        head, layout = json.loads(raw[:at].tobytes())
        lanes: list[Arrays] = []
        for lane in layout:
            arrays = {}
            for name, (kind, shape) in lane.items():
                count = int(np.prod(shape)) * np.dtype(kind).itemsize
                arrays[name] = raw[at : at + count].copy().view(kind).reshape(shape)
                at += count
            lanes.append(arrays)
        return head, lanes
