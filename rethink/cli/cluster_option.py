"""The option `--cluster`, for the verbs whose sampling can be spread over workers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rethink.observe.progress import Progress


def add_cluster(parser: argparse._ActionsContainer) -> None:
    """Add `--cluster`."""
    parser.add_argument(
        "--cluster",
        metavar="FILE|local:N[,ranks=R]",
        help="sample on N workers (extra `ray`), train on R processes: of this machine, or as a cluster file says",
    )


@contextmanager
def placed_on(
    cluster: str | None,
    note: Callable[[str], None],
    progress: Progress | None = None,
    out: Path | None = None,
    *,
    shared: bool = False,
) -> Iterator[None]:
    """Sample on the cluster that `--cluster` names; None: in this process, and Ray is never imported.

    Args:
        cluster: as given.
        note: told what a user should know.
        progress: shows the workers.
        out: the folder of the run or pipeline, which records what is lost.
        shared: whether workers read what is written there.

    Raises:
        UsageError: there is no such file, it is wrong, Ray is missing, or the cluster does not answer.
    """
    if cluster is None:
        yield
        return
    from rethink.distributed.cluster import read_cluster
    from rethink.distributed.nodes import check_shared
    from rethink.distributed.opening import on_cluster
    from rethink.distributed.watch import Onlooker, Seen
    from rethink.store.cluster_log import add_event
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    def show(workers: Sequence[Seen]) -> None:
        if progress is not None:
            progress.workers([asdict(worker) for worker in workers])

    def record(event: Mapping[str, Any]) -> None:
        if out is not None and (RunFolder.exists(out) or PipelineFolder.exists(out)):
            add_event(out, event)

    where = read_cluster(cluster)
    if shared and out is not None and where.uses_ray and where.address != "local":
        check_shared(where.address, out)
    with on_cluster(where, Onlooker(note, show, record)):
        yield
