"""The option `--cluster`, for the verbs whose sampling can be spread over workers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def add_cluster(parser: argparse._ActionsContainer) -> None:
    """Add `--cluster`."""
    parser.add_argument(
        "--cluster",
        metavar="FILE|local:N[,ranks=R]",
        help="sample on N workers (extra `ray`), train on R processes: of this machine, or as a cluster file says",
    )


@contextmanager
def placed_on(cluster: str | None, note: Callable[[str], None]) -> Iterator[None]:
    """Sample on the cluster that `--cluster` names; None: in this process, and Ray is never imported.

    Raises:
        UsageError: there is no such file, it is wrong, Ray is missing, or the cluster does not answer.
    """
    if cluster is None:
        yield
        return
    from rethink.distributed.cluster import read_cluster
    from rethink.distributed.opening import on_cluster

    with on_cluster(read_cluster(cluster), note):
        yield
