"""A trainer rank's process: a replica of the model that does what the first rank orders, until its standard input ends.

It reads no checkpoint: weights and the optimizer's state are sent to it. Once a second it says on its standard output
that it lives; torch and the kernels compute without holding the interpreter's lock, so silence means trouble.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from rethink.distributed.gloo import GlooWire, find_store
from rethink.distributed.host import facts
from rethink.distributed.rank_group import FAILED, Group
from rethink.errors import NumericsError, RethinkError
from rethink.kernels.native import library
from rethink.machine.placement import Placement
from rethink.model.loading import load_checkpoint
from rethink.recipe.base import TrainingRecipe
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import parse_recipe
from rethink.runs.lanes import Arrays, Lanes
from rethink.runs.optimizer import Optimizer, open_optimizer
from rethink.runs.ranks import FSDP2, receive_reference
from rethink.terminal import say

BEAT_SECONDS = 1.0
READY, ALIVE = b"r", b"."
"""Bytes on standard output: the model is loaded; the process lives."""
PEER_LOST, REFUSED = 75, 76
"""Exit codes of a rank that ends because another one did, and of one whose machine cannot serve the run."""


@dataclasses.dataclass(frozen=True, slots=True)
class RankSpec:
    """What a rank is started with, as JSON on its standard input."""

    rank: int
    size: int
    meeting: str
    """See `gloo.find_store`."""
    host: str
    """This machine's address for the other ranks."""
    recipe: str
    source: str
    revision: str | None
    placement: dict[str, Any]
    lanes: int
    micro_batch_tokens: int
    strategy: str
    recompute: bool
    expected: dict[str, str]
    """What must be here as `deciding` says."""


class PeerLostError(Exception):
    """Another rank is lost; the first one knows which."""


def deciding() -> dict[str, str]:
    """What decides the bits of a gradient on this machine."""
    about = facts()
    return {name: about[name] for name in ("rethink", "torch", "instructions")} | {"kernels": library.status().level}


class Rank:
    """The other side of `Group`'s orders.

    Args:
        group: joins it.
        recipe: of the run.
        build: makes the model as the run does; its weights are sent.
        lanes: of a step.
        limit: most tokens in one pass.
        ready: called when the model is there.
    """

    def __init__(
        self,
        group: Callable[[], Group],
        recipe: TrainingRecipe,
        build: Callable[[], Any],
        lanes: int,
        limit: int,
        ready: Callable[[], None] = lambda: None,
    ):
        self.recipe, self.limit, self._build = recipe, limit, build
        self.reference: Any = None
        self.kind: Lanes[Any, Any] = kind_named(recipe.kind).load("lanes")
        model = build()
        ready()
        self.group = group()
        self.optimizer = open_optimizer(model, recipe.optimizer, None, self.group, lanes, limit)

    def serve(self) -> NoReturn:
        """Do what is ordered, for ever."""
        while True:
            name, facts, lanes = self.group.await_order()
            if name == "lanes":
                train_rounds(self.group, self.optimizer, lanes, facts, partial(self._compute, facts["step"]))
            elif name == "reference":
                whole = self._build() if self.group.sharded else self.optimizer.trained
                self.reference = whole.clone()
                if facts["sent"]:
                    receive_reference(self.group, self.reference)
            else:
                self.optimizer.obey(name, facts)

    def _compute(self, step: int, arrays: Arrays) -> Any:
        lane = self.kind.unpack(arrays)
        return self.kind.compute(self.recipe, self.optimizer.trained, self.reference, lane, step, self.limit)


def train_rounds(
    group: Group,
    optimizer: Optimizer,
    lanes: Sequence[Arrays],
    facts: Mapping[str, Any],
    compute: Callable[[Arrays], Any],
) -> None:
    """On another rank than the first: its lanes of a step (`runs.rounds.train_lanes`).

    Args:
        group: of the ranks.
        optimizer: of this one.
        lanes: this rank's, one a round.
        facts: of the order: how many lanes the step has, and the passes of each round.
        compute: forward and backward of a lane; returns a dataclass.
    """
    for turn, first in enumerate(range(0, facts["number"], group.size)):
        said: dict[str, Any] | None = None
        if turn < len(lanes):
            try:
                said = dataclasses.asdict(compute(lanes[turn]))
            except NumericsError as error:
                said = {FAILED: str(error)}
        if facts["passes"]:
            optimizer.pad(facts["passes"][turn])
        if said is not None:
            group.report(said)
        optimizer.add_round(min(group.size, facts["number"] - first))


def main() -> None:
    """Read the specification, load the model, say so, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first rank's
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spec = RankSpec(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_the_first, args=(os.getppid(),), daemon=True).start()
    _check_bits(spec.expected)
    try:
        recipe = parse_recipe(spec.recipe, "the run's recipe")
        assert isinstance(recipe, TrainingRecipe)
        trust = recipe.model.trust_remote_code
        checkpoint = load_checkpoint(spec.source, revision=spec.revision, trust_remote_code=trust)
        placement = Placement(**spec.placement)
        placement.apply()
        if placement.device == "cuda":
            torch.cuda.set_device(spec.rank)
        build = partial(kind_named(recipe.kind).load("lanes").build, recipe, checkpoint, placement)
        beat = threading.Thread(target=_beat, args=(out,), daemon=True)
        Rank(partial(_group, spec), recipe, build, spec.lanes, spec.micro_batch_tokens, beat.start).serve()
    except PeerLostError as error:
        say(f"lost rank {error}", file=sys.stderr)
        os._exit(PEER_LOST)
    except RethinkError as error:
        say(str(error), file=sys.stderr)
        os._exit(1)


def _group(spec: RankSpec) -> Group:
    def lost(rank: int, what: str) -> PeerLostError:
        return PeerLostError(f"{rank}: {what}")

    if spec.strategy == FSDP2:
        from rethink.distributed.sharded_optimizer import join_sharded

        return join_sharded(Path(spec.meeting), spec.rank, spec.size, spec.placement["device"], spec.recompute, lost)
    wire = GlooWire(find_store(spec.meeting, spec.size), spec.host, spec.rank, spec.size, lost)
    return Group(wire, spec.rank, spec.size)


def _check_bits(expected: Mapping[str, str]) -> None:
    """End where this machine would compute other bits than the first rank's."""
    found = deciding()
    if strange := [name for name, value in expected.items() if found[name] != value]:
        said = "; ".join(f"{name}: {found[name]}, and {expected[name]} on the driver's" for name in strange)
        say(
            f"is refused, since its gradients would differ in the last bits on {socket.gethostname()} ({said}). Use "
            "machines of one kind, or write `bits: any`",
            file=sys.stderr,
        )
        os._exit(REFUSED)


def _beat(out: int) -> None:
    os.write(out, READY)
    while True:
        time.sleep(BEAT_SECONDS)
        os.write(out, ALIVE)


def _end_with_the_first(parent: int) -> None:
    """End where the first rank closes our input, or is gone and somebody else holds it open."""

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(BEAT_SECONDS)
        os._exit(PEER_LOST)

    threading.Thread(target=watch_parent, daemon=True).start()
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
