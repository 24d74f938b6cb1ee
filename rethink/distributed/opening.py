"""Engines on a cluster: whatever opens an engine within `on_cluster` gets a pool of workers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.layout import lay_out
from rethink.distributed.nodes import check_answers, this_machine
from rethink.distributed.pool import Timing
from rethink.distributed.pool_engine import PoolEngine
from rethink.distributed.rank_opening import on_ranks
from rethink.distributed.ray_cluster import UNKNOWN
from rethink.distributed.ray_process import RayProcess
from rethink.distributed.rollout_worker import CAPACITY, WorkerSpec, facts
from rethink.distributed.watch import Onlooker
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Spreading, spread_over
from rethink.runs.ranks import FSDP2

INEXACT = (
    "Without native bf16 kernels a completion's last bits depend on threads and on what is drawn beside it. The run "
    "ends as in one process, unless a draw falls within that rounding (docs/determinism.md)."
)


@contextmanager
def on_cluster(cluster: Cluster, onlooker: Onlooker) -> Iterator[None]:
    """Within, engines draw on the cluster's workers, and runs are shared among its ranks; both end with it.

    Args:
        cluster: where.
        onlooker: told what a user should know: workers that were lost, and why.

    Raises:
        UsageError: Ray is missing, the cluster does not answer, or has too few processors.
    """
    if cluster.workers:
        ray_module()  # before anything slow
        check_answers(cluster.address)
    for caution in lay_out(cluster, [this_machine()], UNKNOWN, here="").cautions if cluster.address == "local" else ():
        onlooker.note(f"{caution}.")
    engines: list[PoolEngine] = []
    try:
        with ExitStack() as stack:
            if cluster.workers:
                stack.enter_context(spread_over(partial(_pool, cluster, onlooker, engines)))
            if cluster.ranks > 1 or cluster.trainer.strategy == FSDP2:
                stack.enter_context(on_ranks(cluster))
            yield
    finally:
        for engine in engines:
            engine.close()


def _pool(cluster: Cluster, onlooker: Onlooker, engines: list[PoolEngine], spreading: Spreading) -> RolloutEngine:
    opened, local = spreading.opened, spreading.opened.engine
    if cluster.bits == "same" and not local.exact_logprobs:
        onlooker.note(INEXACT)
    weights = sum(p.numel() * p.element_size() for _, p in opened.model.named_parameters())
    workers = RayProcess(cluster, _spec(cluster, spreading), facts(opened), onlooker.note, weights)
    engine = PoolEngine(
        workers,
        Timing(hung=cluster.hang_seconds),
        opened,
        onlooker,
        exact_logprobs=local.exact_logprobs and cluster.bits == "same",
    )
    engine.publish(opened.model, 0)
    engines.append(engine)
    return engine


def _spec(cluster: Cluster, spreading: Spreading) -> WorkerSpec:
    checkpoint, placement = spreading.opened.checkpoint, spreading.placement
    budget = placement.kv_budget_bytes
    if cluster.kv_budget_gb is not None:
        budget = int(cluster.kv_budget_gb * 2**30)
    elif budget is not None:
        budget //= cluster.workers  # of this machine; elsewhere it is a cautious share
    local = Path(checkpoint.source).expanduser()
    return WorkerSpec(
        source=os.path.abspath(local) if local.exists() else checkpoint.source,
        revision=checkpoint.revision,
        trust_remote_code=spreading.trust_remote_code,
        engine=spreading.opened.name,
        placement=dataclasses.replace(placement, threads=cluster.threads, kv_budget_bytes=budget),
        max_concurrent=spreading.max_concurrent,
        capacity=spreading.max_concurrent or CAPACITY,
    )
