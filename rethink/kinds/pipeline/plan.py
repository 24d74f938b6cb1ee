"""What a pipeline will do and take, before it runs: `--dry-run`.

Tokens, operations and times follow `plan/estimate.py` and are upper bounds where lengths are not known: completions
are taken at their token limit, and data sets at what the stage that makes them can keep at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rethink.errors import ModelError
from rethink.kinds.pipeline.disk import disk_of
from rethink.kinds.pipeline.identity import stage_hashes
from rethink.kinds.pipeline.selection import Selection
from rethink.kinds.pipeline.stages import ResolvedStage, pipeline_of, references, resolve
from rethink.plan.costs import Costs
from rethink.plan.estimate import MachineRates, count_parameters, shape_of
from rethink.plan.gpus import LARGE, GPUPlan, plan_gpus
from rethink.recipe.base import AnyRecipe
from rethink.recipe.kind import Drawn, kind_named
from rethink.recipe.schema import ModelShape
from rethink.store.pipeline_folder import PipelineFolder


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage as it would be run. None: not known before."""

    name: str
    kind: str
    state: str
    """`done`, `begun`, `new` or `left out`."""
    hash: str
    inputs: tuple[str, ...]
    tokens: float | None = None
    """Generated and trained on."""
    flops: float | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    """Least, all devices together."""
    gpus: GPUPlan | None = None
    """Of a stage of at least `gpus.LARGE` operations."""
    disk_peak_bytes: int | None = None
    disk_kept_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages, and their sums over what is left to do."""

    stages: tuple[PlannedStage, ...]

    @property
    def left(self) -> list[PlannedStage]:
        """Those that would be run."""
        return [stage for stage in self.stages if stage.state in ("new", "begun")]

    def total(self, field: str) -> float:
        """Sum of a field over the stages that would be run; what is not known counts nothing."""
        return float(sum(getattr(stage, field) or 0 for stage in self.left))

    @property
    def disk_peak_bytes(self) -> int:
        """Most that the pipeline's folder takes at any time: what is kept until then and the running stage's peak."""
        kept, peak = 0, 0
        for stage in self.stages:
            if stage.state != "left out":
                peak = max(peak, kept + (stage.disk_peak_bytes or 0))
                kept += stage.disk_kept_bytes or 0
        return max(peak, kept)


def plan_pipeline(
    recipe: AnyRecipe,
    out: Path | None = None,
    *,
    rates: MachineRates | None = None,
    selection: Selection | None = None,
) -> Plan:
    """Plan a pipeline.

    Args:
        recipe: of a kind that is made of stages.
        out: its folder, to know what is done already; None or missing: nothing is.
        rates: the machine's; None leaves the times out.
        selection: a part of the graph; None: all of it.

    Raises:
        UsageError: the recipe or the selection cannot be used, or a model cannot be found.
    """
    stages = resolve(pipeline_of(recipe))
    chosen = (selection or Selection()).names(stages)
    hashes = stage_hashes(stages)
    folder = None if out is None else PipelineFolder.open_to_run(out)
    records = {} if folder is None else folder.records()
    by_name = {stage.name: stage for stage in stages}
    planned = []
    for stage in stages:
        record = records.get(hashes[stage.name])
        begun = record is not None
        state = "done" if record is not None and record.state == "done" else "begun" if begun else "new"
        if state != "done" and stage.name not in chosen:
            state = "left out"
        costs = _costs(stage, by_name, rates)
        planned.append(PlannedStage(stage.name, stage.kind, state, hashes[stage.name], stage.inputs, **costs))
    return Plan(tuple(planned))


def _costs(stage: ResolvedStage, by_name: Mapping[str, ResolvedStage], rates: MachineRates | None) -> dict[str, Any]:
    recipe, kind = stage.recipe, kind_named(stage.kind)
    shape = stage_shape(recipe, by_name)
    if shape is None:
        return {}
    peak, kept = disk_of(recipe, count_parameters(shape).total)
    costs: Costs = Costs() if kind.costs is None else kind.load("costs")(recipe, shape, partial(drawn, by_name), rates)
    gpus = None
    if costs.memory is not None and costs.flops is not None and costs.flops >= LARGE:
        value_bytes = recipe.model.value_bytes  # type: ignore[attr-defined]
        gpus = plan_gpus(shape, costs.memory, costs.longest or shape.context, value_bytes, costs.flops)
    return {
        "tokens": costs.tokens,
        "flops": costs.flops,
        "seconds": costs.seconds,
        "memory_bytes": None if costs.memory is None else costs.memory.least,
        "gpus": gpus,
        "disk_peak_bytes": peak + costs.disk_bytes,
        "disk_kept_bytes": kept + costs.disk_bytes,
    }


def drawn(by_name: Mapping[str, ResolvedStage], path: str) -> Drawn | None:
    """What the stage leaves at most that a path refers to; None where the file comes from elsewhere."""
    used = references(path)
    made_by = by_name[used[0][0]] if used else None
    if made_by is None or (kind := kind_named(made_by.kind)).drawn is None:
        return None
    found: Drawn | None = kind.load("drawn")(made_by.recipe)
    return found


def stage_shape(recipe: Any, by_name: Mapping[str, ResolvedStage]) -> ModelShape | None:
    """The shape of a stage's model: declared, that of the stage it comes from, or read from the model's headers."""
    seen: set[str] = set()
    while True:
        model = getattr(recipe, "model", None)
        if model is None:
            return None
        if model.shape is not None:
            found: ModelShape = model.shape
            return found
        used: Sequence[tuple[str, str]] = references(model.path)
        if not used:
            break
        name = used[0][0]
        if name in seen:
            return None
        seen.add(name)
        recipe = by_name[name].recipe
    from rethink.model.loading import load_model

    checkpoint = load_model(model, headers_only=True)
    if checkpoint.config is None:
        raise ModelError(
            f"{model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for a dry "
            "run; to train it, none is needed."
        )
    return shape_of(checkpoint.config)
