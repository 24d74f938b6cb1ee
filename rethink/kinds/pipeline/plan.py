"""What a pipeline will do and take, before it runs: `--dry-run`.

Tokens, operations and times follow `plan/estimate.py` and are upper bounds where lengths are not known: completions
are taken at their token limit, and data sets at what the stage that makes them can keep at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import ModelError
from rethink.kinds.eval.recipe import EvalRecipe
from rethink.kinds.pipeline.disk import disk_of
from rethink.kinds.pipeline.identity import stage_hashes
from rethink.kinds.pipeline.recipe import DistillRecipe, PipelineRecipe
from rethink.kinds.pipeline.selection import Selection
from rethink.kinds.pipeline.stages import ResolvedStage, references, resolve
from rethink.kinds.reward_model.estimate import RewardModelEstimate, estimate_reward_model
from rethink.kinds.reward_model.recipe import RewardDataSize, RewardModelRecipe
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.sft.estimate import SFTEstimate, estimate_sft
from rethink.kinds.sft.recipe import SFTDataSize, SFTRecipe
from rethink.plan.estimate import (
    ASSUMED_PROMPT_TOKENS,
    Estimate,
    MachineRates,
    count_parameters,
    estimate,
    shape_of,
)
from rethink.plan.gpus import LARGE, GPUPlan, plan_gpus
from rethink.recipe.kinds import AnyRecipe
from rethink.recipe.schema import ModelShape, Recipe
from rethink.store.pipeline_folder import PipelineFolder

SAMPLE_BYTES = 8
"""Bytes on disk of a token that a stage samples: its text and what is known of it."""
MOST_BYTES_OF_ROLLOUTS = 12
"""The same in a rollout file, where its id and two log-probabilities are kept too."""


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
    recipe: PipelineRecipe | DistillRecipe,
    out: Path | None = None,
    *,
    rates: MachineRates | None = None,
    selection: Selection | None = None,
) -> Plan:
    """Plan a pipeline.

    Args:
        recipe: the pipeline.
        out: its folder, to know what is done already; None or missing: nothing is.
        rates: the machine's; None leaves the times out.
        selection: a part of the graph; None: all of it.

    Raises:
        UsageError: the recipe or the selection cannot be used, or a model cannot be found.
    """
    pipeline = recipe.as_pipeline() if isinstance(recipe, DistillRecipe) else recipe
    stages = resolve(pipeline)
    chosen = (selection or Selection()).names(stages)
    hashes = stage_hashes(stages)
    records = PipelineFolder.open(out).records() if out is not None and PipelineFolder.exists(out) else {}
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
    recipe = stage.recipe
    shape = _shape(recipe, by_name)
    if shape is None:
        return {}
    parameters = count_parameters(shape)
    peak, kept = disk_of(recipe, parameters.total)
    disk = {"disk_peak_bytes": peak, "disk_kept_bytes": kept}
    if isinstance(recipe, Recipe):
        grpo = estimate(recipe, shape, rates)
        rollouts = grpo.generated_tokens * MOST_BYTES_OF_ROLLOUTS
        return {
            "tokens": float(grpo.generated_tokens + grpo.total_tokens),
            **_sums(recipe, shape, grpo, grpo.prompt_tokens + recipe.longest_completion),
            "disk_peak_bytes": peak + rollouts,
            "disk_kept_bytes": kept + rollouts,
        }
    if isinstance(recipe, SFTRecipe):
        size = recipe.data_size or _data_size(recipe, by_name)
        if size is None:
            return disk
        sft = estimate_sft(recipe, shape, size, rates)
        return {"tokens": sft.total_tokens, **_sums(recipe, shape, sft, recipe.max_tokens), **disk}
    if isinstance(recipe, RewardModelRecipe):
        pairs = recipe.data_size or _pairs_size(recipe, by_name)
        if pairs is None:
            return disk
        longest = None if recipe.data_size else round(pairs.tokens)
        model = estimate_reward_model(recipe, shape, pairs, rates, longest=longest)
        return {"tokens": model.total_tokens, **_sums(recipe, shape, model, longest or recipe.max_tokens), **disk}
    drawn = drawn_tokens(recipe)
    if drawn is None:
        return disk
    prompts, completions = drawn
    flops = 2.0 * (parameters.block * (prompts * ASSUMED_PROMPT_TOKENS + completions) + parameters.head * completions)
    return {
        "tokens": float(completions),
        "flops": flops,
        "seconds": None if rates is None else flops / rates.decoding,
        "disk_peak_bytes": completions * SAMPLE_BYTES,
        "disk_kept_bytes": completions * SAMPLE_BYTES,
    }


def _sums(
    recipe: Recipe | SFTRecipe | RewardModelRecipe,
    shape: ModelShape,
    found: Estimate | SFTEstimate | RewardModelEstimate,
    longest: int | None,
) -> dict[str, Any]:
    """What all estimates of training have; `longest` sequence in tokens, None: the model's context."""
    flops, memory = found.total_flops, found.memory
    gpus = None
    if flops >= LARGE:
        gpus = plan_gpus(shape, memory, longest or shape.context, recipe.model.value_bytes, flops)
    return {"flops": flops, "seconds": found.total_seconds, "memory_bytes": memory.least, "gpus": gpus}


def drawn_tokens(recipe: AnyRecipe) -> tuple[int, int] | None:
    """(prompts, most completion tokens) of a stage that samples; None for one that does not."""
    if isinstance(recipe, EvalRecipe):
        return recipe.problems, recipe.problems * recipe.samples * recipe.max_new_tokens
    if isinstance(recipe, CurateRecipe) and recipe.samples_here:
        sampling = recipe.sampling
        return recipe.problems, recipe.problems * sampling.per_problem * sampling.max_new_tokens
    return None


def _data_size(recipe: SFTRecipe, by_name: Mapping[str, ResolvedStage]) -> SFTDataSize | None:
    """Of data that stages before make, at most; None where a file is among them (it is counted when it is read)."""
    documents, completions = 0.0, 0.0
    for entry in recipe.data:
        made_by = _sampler(entry.path, by_name)
        if made_by is None:
            return None
        each = made_by.sampling.per_problem if made_by.choose.rule == "all" else made_by.choose.keep
        kept = made_by.problems * min(each, made_by.sampling.per_problem)
        talk = kept * made_by.general.share / (1 - made_by.general.share)
        documents += kept + talk
        completions += kept * made_by.sampling.max_new_tokens + talk * made_by.general.max_new_tokens
    mean = completions / documents
    return SFTDataSize(documents=round(documents), tokens=mean + ASSUMED_PROMPT_TOKENS, trained_tokens=mean)


def _sampler(path: str, by_name: Mapping[str, ResolvedStage]) -> CurateRecipe | None:
    """The stage that draws the samples at a path; None where they come from elsewhere."""
    used = references(path)
    made_by = by_name[used[0][0]].recipe if used else None
    return made_by if isinstance(made_by, CurateRecipe) and made_by.source is None else None


def _pairs_size(recipe: RewardModelRecipe, by_name: Mapping[str, ResolvedStage]) -> RewardDataSize | None:
    """Of pairs that are made of the samples of stages before, at most; None where they come from elsewhere too."""
    pairs, longest = 0, 0
    for entry in recipe.data:
        made_by = _sampler(entry.path, by_name)
        if made_by is None:
            return None
        pairs += made_by.problems * min(entry.pairs_per_question, made_by.sampling.per_problem // 2)
        longest = max(longest, made_by.sampling.max_new_tokens)
    if not pairs:
        return None
    return RewardDataSize(examples=pairs, tokens=2 * (ASSUMED_PROMPT_TOKENS + longest))


def _shape(recipe: Any, by_name: Mapping[str, ResolvedStage]) -> ModelShape | None:
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
    from rethink.model.loading import load_checkpoint

    checkpoint = load_checkpoint(model.path, revision=model.revision, headers_only=True)
    if checkpoint.config is None:
        raise ModelError(
            f"{model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for a dry "
            "run; to train it, none is needed."
        )
    return shape_of(checkpoint.config)
