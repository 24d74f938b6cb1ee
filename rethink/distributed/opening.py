"""Engines on a cluster: whatever opens an engine within `on_cluster` gets a pool of workers."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module
from rethink.distributed.layout import lay_out, strange
from rethink.distributed.nodes import Question, check_answers, this_machine
from rethink.distributed.pool import Timing
from rethink.distributed.pool_engine import PoolEngine
from rethink.distributed.rank_opening import on_ranks
from rethink.distributed.ray_cluster import UNKNOWN
from rethink.distributed.ray_process import RayProcess
from rethink.distributed.rollout_worker import CAPACITY, WorkerSpec, facts
from rethink.distributed.watch import Onlooker
from rethink.errors import UsageError
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Spreading, is_corrected, spread_over
from rethink.runs.ranks import FSDP2

WITHOUT_SECONDS = 120.0
"""Least time without a worker after which a run stops; the first may take as long as it may to start."""
OWN_NUMBERS = (
    "The workers' engine `{}` computes otherwise than the trainer, and its completions depend on what is drawn beside "
    "them: `bits: same` does not hold for it (docs/determinism.md)."
)
INEXACT = (
    "Without native kernels a completion's last bits depend on threads and on what is drawn beside it. The run "
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
    if cluster.uses_ray:
        ray_module()  # before anything slow
        check_answers(cluster.address)
        _check_python(cluster)
    for caution in lay_out(cluster, [this_machine()], UNKNOWN, here="").cautions if cluster.address == "local" else ():
        onlooker.note(f"{caution}.")
    engines: weakref.WeakSet[PoolEngine] = weakref.WeakSet()  # one that is closed is not kept, nor its model
    try:
        with ExitStack() as stack:
            if cluster.workers:
                pool, check = partial(_pool, cluster, onlooker, engines), partial(_check_engine, cluster)
                stack.enter_context(spread_over(pool, check))
            if cluster.ranks > 1 or cluster.trainer.strategy == FSDP2:
                stack.enter_context(on_ranks(cluster, onlooker.note))
            yield
    finally:
        for engine in list(engines):
            engine.close()


def _check_python(cluster: Cluster, engines: Sequence[str] = ()) -> None:
    """Refuse a Python of workers that cannot be one's, where it is of this machine; others are asked through Ray.

    Raises:
        UsageError: it is not there, lacks Rethink or an engine's packages, or has other versions.
    """
    if cluster.python is None or cluster.address != "local":
        return
    if problems := list(strange([this_machine(Question(python=cluster.python, engines=engines))])):
        raise UsageError(f"no worker can start. {'. '.join(problems)}.")


def _check_engine(cluster: Cluster, engine: Engine) -> None:
    if cluster.python is None:
        engine.check()
    else:
        _check_python(cluster, [engine.name])


def _pool(
    cluster: Cluster, onlooker: Onlooker, engines: weakref.WeakSet[PoolEngine], spreading: Spreading
) -> RolloutEngine:
    opened, local = spreading.opened, spreading.opened.engine
    exact = local.exact_logprobs and cluster.bits == "same" and not is_corrected(opened.name)
    if cluster.bits == "same" and not exact:
        onlooker.note(OWN_NUMBERS.format(opened.name) if is_corrected(opened.name) else INEXACT)
    weights = sum(p.numel() * p.element_size() for _, p in opened.model.named_parameters())
    workers = RayProcess(cluster, _spec(cluster, spreading), facts(opened), onlooker.note, weights)
    engine = PoolEngine(
        workers,
        Timing(hung=cluster.hang_seconds, without=max(WITHOUT_SECONDS, cluster.start_seconds)),
        opened,
        onlooker,
        exact_logprobs=exact,
    )
    engine.publish(opened.model, 0)
    engines.add(engine)
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
