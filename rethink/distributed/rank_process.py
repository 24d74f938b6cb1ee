"""A trainer rank's process: a replica of the model that does what the first rank orders, until its standard input ends.

It reads no checkpoint: weights and the optimizer's state are sent to it. Once a second it says on its standard output
that it lives; torch and the kernels compute without holding the interpreter's lock, so silence means trouble.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from rethink.distributed.gloo import GlooWire
from rethink.distributed.rank_group import FAILED, Group
from rethink.errors import NumericsError, RethinkError
from rethink.machine.placement import Placement
from rethink.model.loading import load_checkpoint
from rethink.recipe.base import TrainingRecipe
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import parse_recipe
from rethink.runs.lanes import Lanes
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import receive_reference
from rethink.terminal import say

BEAT_SECONDS = 1.0
READY, ALIVE = b"r", b"."
"""Bytes on standard output: the model is loaded; the process lives."""
PEER_LOST = 75
"""Exit code of a rank that ends because another one did."""


@dataclasses.dataclass(frozen=True, slots=True)
class RankSpec:
    """What a rank is started with, as JSON on its standard input."""

    rank: int
    size: int
    meeting: str
    recipe: str
    source: str
    revision: str | None
    placement: dict[str, Any]
    lanes: int
    micro_batch_tokens: int


class PeerLostError(Exception):
    """Another rank is lost; the first one knows which."""


class Rank:
    """The other side of `Group`'s orders.

    Args:
        group: this rank's side of it.
        recipe: of the run.
        model: as the run builds it; its weights are sent.
        lanes: of a step.
        limit: most tokens in one pass.
    """

    def __init__(self, group: Group, recipe: TrainingRecipe, model: Any, lanes: int, limit: int):
        self.group, self.recipe, self.model, self.limit = group, recipe, model, limit
        self.reference: Any = None
        self.kind: Lanes[Any, Any] = kind_named(recipe.kind).load("lanes")
        self.optimizer = MasterAdamW(model, recipe.optimizer, None, group, lanes)

    def serve(self) -> NoReturn:
        """Do what is ordered, for ever."""
        while True:
            name, facts, lanes = self.group.await_order()
            if name == "lanes":
                self._train(lanes, facts["number"], facts["step"])
            elif name == "update":
                self.optimizer.step(facts["rate"])
            elif name == "load":
                self.optimizer.load(None)
            elif name == "state":
                list(self.optimizer.states())
            elif name == "reference":
                self.reference = self.model.clone()
                if facts["sent"]:
                    receive_reference(self.group, self.reference)

    def _train(self, lanes: list[Any], number: int, step: int) -> None:
        """This rank's lanes of a step, of which there are so many."""
        kind = self.kind
        for turn, first in enumerate(range(0, number, self.group.size)):
            if turn < len(lanes):
                try:
                    lane = kind.unpack(lanes[turn])
                    found = kind.compute(self.recipe, self.model, self.reference, lane, step, self.limit)
                    facts = dataclasses.asdict(found)
                except NumericsError as error:
                    facts = {FAILED: str(error)}
                self.group.report(facts)
            self.optimizer.add_round(min(self.group.size, number - first))


def main() -> None:
    """Read the specification, load the model, say so, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first rank's
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    spec = RankSpec(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_the_first, args=(os.getppid(),), daemon=True).start()
    try:
        recipe = parse_recipe(spec.recipe, "the run's recipe")
        assert isinstance(recipe, TrainingRecipe)
        trust = recipe.model.trust_remote_code
        checkpoint = load_checkpoint(spec.source, revision=spec.revision, trust_remote_code=trust)
        placement = Placement(**spec.placement)
        placement.apply()
        model = kind_named(recipe.kind).load("lanes").build(recipe, checkpoint, placement)
        threading.Thread(target=_beat, args=(out,), daemon=True).start()
        wire = GlooWire(Path(spec.meeting), spec.rank, spec.size, lambda rank, what: PeerLostError(f"{rank}: {what}"))
        group = Group(wire, spec.rank, spec.size)
        Rank(group, recipe, model, spec.lanes, spec.micro_batch_tokens).serve()
    except PeerLostError as error:
        say(f"lost rank {error}", file=sys.stderr)
        os._exit(PEER_LOST)
    except RethinkError as error:
        say(str(error), file=sys.stderr)
        os._exit(1)


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
