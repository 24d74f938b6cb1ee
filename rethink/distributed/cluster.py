"""Where a run is placed: the cluster file, or `local:N` in its place. It says nothing of what is computed.

    workers: 4                 # rollout workers
    threads: 8                 # of each
    ranks: 2                   # trainer ranks, the process that is started counted
    address: auto              # a Ray cluster that runs; local: start Ray on this machine

A recipe says what a run is, a cluster file where it runs. So the file is no part of a run's identity: a run may be
resumed with another one, or with none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from rethink.errors import UsageError
from rethink.machine.limits import usable_threads
from rethink.recipe.recipe_files import load_section
from rethink.recipe.schema import Section


class TrainerSection(Section):
    """How trainer ranks hold the weights."""

    strategy: Literal["replicated", "fsdp2"] = "replicated"
    """`replicated`: each rank has all weights, and the result is that of one process to the bit. `fsdp2`: each has a
    shard of every weight, of its gradient and of the optimizer (torch's FSDP2), for models that do not fit one GPU."""
    recompute: bool = False
    """With `fsdp2`: keep only each layer's input for the backward pass and compute the layer again there. It takes less
    memory for long sequences and about a third more time; the result is the same."""


class Cluster(Section):
    """A cluster file."""

    address: str = "local"
    """`local`: start Ray on this machine, for this run alone. `auto`: the cluster of this machine's Ray. Otherwise the
    address of a cluster's head, `HOST:PORT`."""
    workers: int = Field(default=2, ge=0)
    """Rollout workers; 0: the trainer's process samples, and Ray is not needed."""
    threads: int = Field(default=1, gt=0)
    """CPU threads of each worker; Ray places workers by them."""
    python: str | None = Field(default=None, pattern=r"^/")
    """The Python of the workers, by its path, which is the same on every machine; None: that of the driver. For an
    engine whose packages the driver's environment cannot have (`vllm`). It has Rethink, and the same Ray and Python
    version."""
    ranks: int = Field(default=1, gt=0)
    """Trainer ranks: processes that share each step, this one counted. With `address: local` or `strategy: fsdp2` they
    are on this machine, otherwise Ray places all but this one on nodes that have room."""
    trainer: TrainerSection = TrainerSection()
    """Of the ranks."""
    rank_threads: int | None = Field(default=None, gt=0)
    """CPU threads of each rank, for a run that starts and whose recipe says nothing of `threads`; None: those of this
    machine, of ranks that are all here an equal part of them."""
    bits: Literal["same", "any"] = "same"
    """`same`: refuse a worker whose completions would differ in the last bits (another processor or version), so that
    the run ends as one process would. `any`: take it, and compute log-probabilities anew before training."""
    kv_budget_gb: float | None = Field(default=None, gt=0)
    """Memory for keys and values of each worker (GiB); None: its share of what is free on its machine."""
    start_seconds: float = Field(default=180.0, gt=0)
    """How long a worker or rank may take to start and load the model."""
    hang_seconds: float = Field(default=10.0, gt=0)
    """A worker that does not answer for so long is given up, and its samples are asked again elsewhere. A rank
    that does not answer is ended, and all start again."""

    @property
    def threads_here(self) -> int:
        """CPU threads of a run that starts and whose recipe says nothing of `threads`."""
        if self.ranks == 1:
            return usable_threads()
        sharing = 1 if self.ranks_on_nodes else self.ranks
        return self.rank_threads or max(usable_threads() // sharing, 1)

    @property
    def ranks_on_nodes(self) -> bool:
        """Whether Ray places ranks."""
        return self.ranks > 1 and self.address != "local" and self.trainer.strategy == "replicated"

    @property
    def uses_ray(self) -> bool:
        """Whether anything of it is placed by Ray."""
        return self.workers > 0 or self.ranks_on_nodes


def read_cluster(said: str) -> Cluster:
    """The cluster that `--cluster` names: a YAML file, `local`, `local:N` or `local:N,ranks=R`.

    Raises:
        UsageError: it is neither, or the file is wrong.
    """
    if match := re.fullmatch(r"local(?::(\d+))?(?:,ranks=([1-9]\d*))?", said):
        found = Cluster(workers=int(match[1] or 2), ranks=int(match[2] or 1))
        return _with_work(found, said)
    if not Path(said).is_file():
        raise UsageError(
            f"`--cluster {said}`: there is no such file. Write `local:N` for N workers on this machine, "
            "`local:N,ranks=R` for R trainer ranks too, or the path of a cluster file (docs/cluster.md)"
        )
    return _with_work(load_section(Path(said), Cluster), said)


def check_use(cluster: Cluster, recipe: str, *, samples: bool, shared: bool) -> None:
    """Refuse a cluster of which a run uses nothing.

    Args:
        cluster: where it is to run.
        recipe: its name.
        samples: whether it samples from a model of its machine.
        shared: whether ranks can share its steps.

    Raises:
        UsageError: says what the run could use.
    """
    if (cluster.workers and samples) or ((cluster.ranks > 1 or cluster.trainer.strategy == "fsdp2") and shared):
        return
    lacks = [*(() if samples else ("samples nothing here",)), *(() if shared else ("has no steps to share",))]
    instead = "write `local:0,ranks=2`, say" if shared else "write `local:2`, say" if samples else "leave it out"
    raise UsageError(
        f"a cluster's workers sample, and its trainer ranks share steps of training; `{recipe}` {' and '.join(lacks)}, "
        f"so this cluster is of no use to it; {instead}"
    )


def _with_work(cluster: Cluster, said: str) -> Cluster:
    sharded = cluster.trainer.strategy == "fsdp2"
    if cluster.trainer.recompute and not sharded:
        raise UsageError(
            f"`--cluster {said}`: `recompute` is of `strategy: fsdp2`, and the strategy is "
            f"`{cluster.trainer.strategy}`. Leave one out, or write `trainer: {{strategy: fsdp2, recompute: true}}`"
        )
    if cluster.workers == 0 and cluster.ranks == 1 and not sharded:
        raise UsageError(
            f"`--cluster {said}` has neither workers nor more than one trainer rank; write `local:2`, say, or leave it "
            "out"
        )
    return cluster
