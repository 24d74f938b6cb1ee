"""Trainer ranks of a cluster: whatever trains within `on_ranks`, and can be shared, is shared among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rethink.distributed.cluster import Cluster
from rethink.runs.ranks import Launch, Ranks, Shared, launched_by


@contextmanager
def on_ranks(cluster: Cluster) -> Iterator[None]:
    """Within, runs whose steps can be shared get the cluster's ranks, which end with it."""
    started: list[Ranks] = []

    def start(shared: Shared) -> Ranks:
        from rethink.distributed.rank_launch import start_local

        seconds = {"start_seconds": cluster.start_seconds, "hang_seconds": cluster.hang_seconds}
        started.append(start_local(shared, cluster.ranks, **seconds))
        return started[-1]

    try:
        with launched_by(Launch(cluster.ranks, cluster.threads_here, start)):
            yield
    finally:
        for ranks in started:
            ranks.close()
