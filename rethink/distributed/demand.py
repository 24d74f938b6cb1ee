"""What a recipe needs of a cluster: threads and memory of the driver and of a rollout worker, from its estimate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rethink.distributed.cluster import Cluster, check_use
from rethink.distributed.layout import Demand
from rethink.distributed.rank_opening import check_device, check_kind
from rethink.distributed.rollout_worker import CAPACITY
from rethink.kinds.pipeline.plan import drawn, stage_shape
from rethink.kinds.pipeline.stages import pipeline_of, references, resolve
from rethink.plan.costs import Costs
from rethink.plan.estimate import (
    ASSUMED_PROMPT_TOKENS,
    GIB,
    cache_bytes,
    count_parameters,
    sharded_memory,
    training_memory,
)
from rethink.recipe.base import AnyRecipe, TrainingRecipe
from rethink.recipe.kind import kind_named
from rethink.recipe.schema import ModelShape
from rethink.rollout.engines import AUTO, takes_own_copy, wanted_by
from rethink.runs.ranks import FSDP2


def demand_of(recipe: AnyRecipe, cluster: Cluster) -> Demand:
    """What a run of a recipe needs; of a pipeline the most that any stage does.

    Raises:
        UsageError: it can use nothing of the cluster, its ranks cannot compute there, or a model cannot be found.
    """
    drivers, workers, paths, engines, notes, shared = [], [], dict[str, None](), dict[str, None](), [], False
    check_kind(cluster, recipe)
    for stage, shape, costs in _stages(recipe, cluster):
        kind = kind_named(stage.kind)
        if kind.lanes is not None:
            shared = True
            check_device(cluster, stage.device)
        value_bytes = stage.model.value_bytes
        model = value_bytes * count_parameters(shape).total
        memory = costs.memory
        if memory is None and isinstance(stage, TrainingRecipe):  # its data are not counted yet, so no activations
            lanes = stage.optimizer.lanes
            memory = training_memory(shape, value_bytes, longest=0, most=0, logits=False, lanes=lanes)
        if memory is not None and cluster.workers:  # which have the engine's copy of the weights
            memory = replace(memory, engine_weights=0)
        if memory is not None and cluster.trainer.strategy == FSDP2:
            memory = sharded_memory(memory, shape, value_bytes, cluster.ranks, 1)
        drivers.append(model if memory is None else memory.least)
        if kind.samples:
            name = wanted_by(stage)
            copies = 2 if takes_own_copy(name) else 1
            workers.append(copies * model + _keys_and_values(stage, shape, cluster, costs))
            engines |= {name: None} if name != AUTO else {}
        if kind.samples or (kind.lanes is not None and cluster.ranks > 1):
            if references(stage.model.path):
                notes = ["stages read the models of earlier ones: run in a folder that all machines share"]
            elif (local := Path(stage.model.path).expanduser()).exists():
                paths[os.path.abspath(local)] = None
    check_use(cluster, recipe.name, samples=bool(workers), shared=shared)
    threads, most = recipe.threads or cluster.threads_here, max(workers, default=None)
    return Demand(threads, max(drivers), most, tuple(paths), tuple(engines), tuple(notes))


def _stages(recipe: AnyRecipe, cluster: Cluster) -> Iterator[tuple[Any, ModelShape, Costs]]:
    """(recipe, the shape of its model, what it costs) of each run that uses a model of this machine."""
    if kind_named(recipe.kind).stages is None:
        by_name, recipes = {}, [recipe]
    else:
        stages = resolve(pipeline_of(recipe))
        by_name, recipes = {stage.name: stage for stage in stages}, [stage.recipe for stage in stages]
    for named in recipes:
        stage, kind = as_started(named, cluster), kind_named(named.kind)
        elsewhere = kind.samples_elsewhere is not None and kind.load("samples_elsewhere")(stage)
        shape = None if elsewhere else stage_shape(stage, by_name)
        if shape is not None:
            of = Costs() if kind.costs is None else kind.load("costs")(stage, shape, partial(drawn, by_name), None)
            yield stage, shape, of


def as_started(recipe: AnyRecipe, cluster: Cluster) -> AnyRecipe:
    """The recipe with the lanes that a run of it records at its start."""
    if not isinstance(recipe, TrainingRecipe) or recipe.optimizer.lanes is not None:
        return recipe
    return recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lanes": cluster.ranks})})


def _keys_and_values(recipe: Any, shape: ModelShape, cluster: Cluster, costs: Costs) -> int:
    """Most bytes of a worker's keys and values: what the cluster file or the recipe allows, or its samples can fill."""
    if cluster.kv_budget_gb is not None:
        return int(cluster.kv_budget_gb * GIB)
    for section in (recipe, getattr(recipe, "rollout", None), getattr(recipe, "sampling", None)):
        if (budget := getattr(section, "kv_budget_gb", None)) is not None:
            return int(budget * GIB) // max(cluster.workers, 1)
    if costs.memory is not None:
        return -(-costs.memory.keys_and_values_most // max(cluster.workers, 1))
    limit = int(getattr(recipe, "sampling", recipe).max_new_tokens)
    longest = min(shape.context, ASSUMED_PROMPT_TOKENS + limit)
    return cache_bytes(shape, recipe.model.value_bytes) * CAPACITY * longest
