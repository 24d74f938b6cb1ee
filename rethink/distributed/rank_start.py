"""The start of a cluster's ranks: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rethink.distributed.cluster import Cluster
from rethink.distributed.gloo import HERE, GlooWire, file_store, serve_store
from rethink.distributed.rank_group import Group
from rethink.distributed.rank_launch import RankProcesses
from rethink.distributed.rank_nodes import RankNodes
from rethink.distributed.rank_process import RankSpec, deciding
from rethink.distributed.rank_watch import RankWatch
from rethink.recipe.recipe_files import recipe_to_yaml
from rethink.runs.ranks import FSDP2, Ranks, Shared


def start_on(cluster: Cluster, shared: Shared, note: Callable[[str], None]) -> Ranks:
    """Start a cluster's ranks, less this process.

    Raises:
        UsageError: Ray is missing or does not answer, or a machine cannot serve this run.
        RankLost: one ended, or was too slow, before all had loaded the model.
    """
    if cluster.ranks_on_nodes:
        return _on_nodes(cluster, shared, note)
    folder = tempfile.TemporaryDirectory(prefix="rethink-ranks-")
    meeting = Path(folder.name) / "meeting"
    watch = RankProcesses(_specs(cluster, shared, str(meeting), HERE), cluster.hang_seconds)

    def end() -> None:
        watch.close()
        folder.cleanup()

    def join() -> Ranks:
        if cluster.trainer.strategy == FSDP2:
            from rethink.distributed.sharded_optimizer import join_sharded

            device, recompute = shared.choices["device"], cluster.trainer.recompute
            return join_sharded(meeting, 0, cluster.ranks, device, recompute, watch.lost, end)
        wire = GlooWire(file_store(str(meeting), cluster.ranks), HERE, 0, cluster.ranks, watch.lost)
        folder.cleanup()  # all have met; a driver that is killed leaves nothing
        return Group(wire, 0, cluster.ranks, end)

    return _once_ready(cluster, watch, join, end)


def _on_nodes(cluster: Cluster, shared: Shared, note: Callable[[str], None]) -> Ranks:
    watch = RankNodes(cluster, int(shared.choices["threads"]), _source(shared), note)

    def join() -> Ranks:
        wire = GlooWire(store, watch.address, 0, cluster.ranks, watch.lost)
        watch.severed_by(wire.sever)
        return Group(wire, 0, cluster.ranks, watch.close)

    try:
        store, meeting = serve_store(watch.address)
        watch.start(_specs(cluster, shared, meeting, ""))  # each host puts in its own address
    except BaseException:
        watch.close()
        raise
    return _once_ready(cluster, watch, join, watch.close)


def _once_ready(cluster: Cluster, watch: RankWatch, join: Callable[[], Ranks], end: Callable[[], None]) -> Ranks:
    try:
        watch.wait_ready(cluster.start_seconds)
        return join()
    except BaseException:
        end()
        raise


def _source(shared: Shared) -> str:
    local = Path(shared.checkpoint.source).expanduser()
    return os.path.abspath(local) if local.exists() else shared.checkpoint.source


def _specs(cluster: Cluster, shared: Shared, meeting: str, host: str) -> list[RankSpec]:
    choices = shared.choices
    placement: dict[str, Any] = {key: choices[key] for key in ("threads", "device", "dtype")}
    first = RankSpec(
        rank=0,
        size=cluster.ranks,
        meeting=meeting,
        host=host,
        recipe=recipe_to_yaml(shared.recipe),
        source=_source(shared),
        revision=shared.checkpoint.revision,
        placement=placement | {"kv_budget_bytes": 0},
        lanes=int(choices.get("lanes", 1)),
        micro_batch_tokens=int(choices["micro_batch_tokens"]),
        strategy=cluster.trainer.strategy,
        recompute=cluster.trainer.recompute,
        expected=deciding() if cluster.bits == "same" else {},
    )
    return [dataclasses.replace(first, rank=rank) for rank in range(1, cluster.ranks)]
