"""Trainer ranks of a cluster: whatever trains within `on_ranks`, and can be shared, is shared among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rethink.distributed.cluster import Cluster
from rethink.errors import UsageError
from rethink.recipe.base import AnyRecipe
from rethink.recipe.kind import kind_named, kinds, listed
from rethink.runs.ranks import FSDP2, Launch, Ranks, Shared, launched_by


@contextmanager
def on_ranks(cluster: Cluster, note: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within, runs whose steps can be shared get the cluster's ranks, which end with it.

    Args:
        cluster: where.
        note: told what a user should know of the machines.
    """
    started: list[Ranks] = []

    def start(shared: Shared) -> Ranks:
        from rethink.distributed.rank_start import start_on

        check_kind(cluster, shared.recipe)  # again: of a pipeline, each stage by itself
        close()  # what an attempt that failed early has left
        started.append(start_on(cluster, shared, note))
        return started[-1]

    def close() -> None:
        while started:
            started.pop().close()

    def check(choices: Mapping[str, Any]) -> None:
        check_device(cluster, choices["device"])

    try:
        with launched_by(Launch(cluster.ranks, cluster.threads_here, start, check, cluster.trainer.strategy)):
            yield
    finally:
        close()


def check_device(cluster: Cluster, device: str) -> None:
    """Refuse a run whose ranks cannot compute where it does.

    Args:
        cluster: with the ranks.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        UsageError: says what to change.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    ranks, sharded = cluster.ranks, cluster.trainer.strategy == FSDP2
    if not sharded and ranks > 1 and device != "cpu":
        raise UsageError(
            f"trainer ranks that replicate weights compute on the processor, and this run computes on {device}. Add "
            "device=cpu, leave `ranks` out of the cluster, or write `trainer: {strategy: fsdp2}`"
        )
    if sharded and device == "cpu" and ranks == 1:
        raise UsageError(
            "`strategy: fsdp2` shards weights over ranks, and on the processor one rank saves nothing. Write "
            "`ranks: 2` or more in the cluster file, or leave `trainer` out"
        )
    if device == "cuda" and (there := torch.cuda.device_count()) < ranks:
        raise UsageError(
            f"the cluster file asks for {ranks} trainer ranks, each on a GPU of its own, and this machine has {there}. "
            f"Write `ranks: {there}`, or add GPUs"
        )


def check_kind(cluster: Cluster, recipe: AnyRecipe) -> None:
    """Refuse a recipe, or a pipeline with a stage, whose weights ranks cannot shard, where the cluster says so.

    Raises:
        UsageError: says which kinds they can.
    """
    if cluster.trainer.strategy != FSDP2:
        return
    runs = [recipe]
    if kind_named(recipe.kind).stages is not None:
        from rethink.kinds.pipeline.stages import pipeline_of, resolve

        runs = [stage.recipe for stage in resolve(pipeline_of(recipe))]
    able = [kind.name for kind in kinds().values() if kind.lanes and kind.load("lanes").pieces is not None]
    for run in runs:
        if kind_named(run.kind).trains and run.kind not in able:
            raise UsageError(
                f"`{run.name}` is of the kind `{run.kind}`, whose weights `strategy: fsdp2` cannot shard; it can those "
                f"of {listed(able)}. Leave `trainer` out of the cluster file"
            )
