"""Who runs where, and what is missing: from a cluster file, the nodes that are there, and what a run needs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rethink.distributed.cluster import Cluster
from rethink.distributed.host import MISSING, THERE
from rethink.plan.estimate_text import size_text

VERSIONS = ("rethink", "ray", "torch", "python")
"""Facts that must be the same on every node."""
DRIVER = "driver"
CLOCK_SECONDS = 60
"""Nodes that are asked at the same time may answer so far apart."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster."""

    name: str
    cpus: float
    """Processors that Ray may give away."""
    memory_bytes: int | None
    """Memory that workers may take; None: unknown."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """See `host.facts`; with `error` where it could not be asked."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run needs. None: not known before it runs."""

    driver_threads: int
    """Of the driver, and of each trainer rank."""
    driver_bytes: int | None
    """Least memory of the driver, which trains."""
    worker_bytes: int | None
    """Most memory of a rollout worker: the model, and keys and values."""
    paths: tuple[str, ...] = ()
    """Files and folders that every worker reads by the same name."""
    engines: tuple[str, ...] = ()
    """That every worker samples with, where the recipe names them."""
    notes: tuple[str, ...] = ()
    """What the user should know of it on several machines."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A process of the run and its place."""

    who: str
    node: str
    threads: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a run's processes are."""

    seats: tuple[Seat, ...]
    missing: tuple[str, ...]
    """What keeps the run from starting, and what to change."""
    cautions: tuple[str, ...]
    """What the user should know."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        return {key: list(value) for key, value in asdict(self).items()}


def lay_out(cluster: Cluster, nodes: Sequence[Node], demand: Demand, here: str) -> Layout:
    """Seat the driver, then trainer ranks and workers in turn on the nodes that have room, as Ray spreads them.

    Ranks that are not placed on nodes are beside the driver.

    Args:
        cluster: the cluster file.
        nodes: that are there; of `address: local` this machine alone.
        demand: what the run needs.
        here: name of the driver's machine, which need not be a node.
    """
    local = cluster.address == "local"
    seats = [Seat(DRIVER, here, demand.driver_threads, demand.driver_bytes)]
    # A rank holds no more than the driver: all weights (sharded: those that it computes with), gradients, its part of
    # the optimizer.
    ranks = [replace(seats[0], who=f"rank-{rank}") for rank in range(1, cluster.ranks)]
    workers = [Seat(f"worker-{index}", "", cluster.threads, demand.worker_bytes) for index in range(cluster.workers)]
    seats += [] if cluster.ranks_on_nodes else ranks
    room = {node.name: math.inf if local else node.cpus for node in nodes}
    lacking: list[Seat] = []
    for seat in [*(ranks if cluster.ranks_on_nodes else ()), *workers]:
        able = [name for name, left in room.items() if left >= seat.threads]
        if not able:
            lacking.append(seat)
            continue
        name = min(able, key=lambda n: sum(other.node == n for other in seats if other.who != DRIVER))
        room[name] -= seat.threads
        seats.append(replace(seat, node=name))
    missing = [*_without_seat(cluster, nodes, lacking), *_memory(nodes, seats), *strange(nodes)]
    cautions = [*(demand.notes if len(nodes) > 1 else ()), *_processors(cluster, nodes), *_clocks(nodes)]
    if local and nodes and (wanted := cluster.workers * cluster.threads) > nodes[0].cpus:
        cautions.append(
            f"{cluster.workers} workers of {cluster.threads} thread(s) want {wanted} processors, and this machine has "
            f"{nodes[0].cpus:.0f}: they take turns. The result is the same, and no sooner than with fewer workers"
        )
    return Layout(tuple(seats), tuple(missing), tuple(cautions))


def _without_seat(cluster: Cluster, nodes: Sequence[Node], lacking: Sequence[Seat]) -> Iterator[str]:
    there = ", ".join(f"{node.name} has {node.cpus:.0f}" for node in nodes) or "there is no node"
    for kind, all_of, fields in (
        ("rank", f"{cluster.ranks - 1} trainer ranks beside the driver", "`ranks` or `rank_threads`"),
        ("worker", f"{cluster.workers} workers", "`workers` or `threads`"),
    ):
        if left := [seat for seat in lacking if seat.who.startswith(kind)]:
            yield (
                f"{len(left)} of the {all_of} find no room: each takes {left[0].threads} processor(s) of one node, and "
                f"{there}. Lower {fields} in the cluster file, or add machines"
            )


def _memory(nodes: Sequence[Node], seats: Sequence[Seat]) -> Iterator[str]:
    for node in nodes:
        here = [seat for seat in seats if seat.node == node.name]
        wanted = sum(seat.memory_bytes or 0 for seat in here)
        if node.memory_bytes is not None and wanted > node.memory_bytes:
            who = ", ".join(seat.who for seat in here)
            yield (
                f"{node.name} has {size_text(node.memory_bytes)} of memory for {who}, which together may take "
                f"{size_text(wanted)}. Lower `workers` or `kv_budget_gb` in the cluster file, or use more machines"
            )


def strange(nodes: Sequence[Node]) -> Iterator[str]:
    """Nodes that cannot be asked, versions that differ, paths that are not the same on every node."""
    for node in nodes:
        if "error" in node.facts:
            yield f"{node.name} cannot be asked: {node.facts['error']}"
        for fact, answer in node.facts.items():
            if fact.startswith("engine ") and answer != THERE:
                yield f"on {node.name} {answer}"
    for fact in VERSIONS:
        if said := _differs(nodes, fact):
            yield f"{fact} differs: {said}. Install the same version everywhere"
    for fact in dict.fromkeys(fact for node in nodes for fact in node.facts if fact.startswith("path ")):
        path, lacking = fact.removeprefix("path "), [n.name for n in nodes if n.facts.get(fact) == MISSING]
        if lacking:
            yield (
                f"`{path}` is not there on {', '.join(lacking)}: every worker loads the model by this path. Put it "
                "into a folder that all machines share, copy it to each, or name a model of the hub"
            )
        elif _differs(nodes, fact):
            yield (
                f"`{path}` is not the same on {', '.join(node.name for node in nodes)}: it is not shared. Copy one of "
                "them over the others, or put it into a folder that all machines share"
            )


def _processors(cluster: Cluster, nodes: Sequence[Node]) -> Iterator[str]:
    if said := _differs(nodes, "instructions"):
        cost = (
            "workers whose completions differ in the last bits are refused as they join. Use machines of one kind, or "
            "write `bits: any`: then the run cannot be repeated to the bit, and log-probabilities are computed twice"
            if cluster.bits == "same"
            else "the run cannot be repeated to the bit"
        )
        yield f"the processors differ ({said}): {cost}"


def _clocks(nodes: Sequence[Node]) -> Iterator[str]:
    told = sorted((int(node.facts["clock"]), node.name) for node in nodes if "clock" in node.facts)
    if told and (apart := told[-1][0] - told[0][0]) > CLOCK_SECONDS:
        yield (
            f"the clock of {told[-1][1]} is {apart} s ahead of that of {told[0][1]}: nothing of the run depends on "
            "clocks, but times in the logs of these machines do not agree. Set the clocks by NTP"
        )


def _differs(nodes: Sequence[Node], fact: str) -> str | None:
    """What nodes say of a fact, where they do not agree."""
    said: dict[str, list[str]] = {}
    for node in nodes:
        if fact in node.facts:
            said.setdefault(node.facts[fact], []).append(node.name)
    if len(said) < 2:
        return None
    return "; ".join(f"{value or 'none'} on {', '.join(names)}" for value, names in said.items())
