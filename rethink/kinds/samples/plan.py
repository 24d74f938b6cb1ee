"""What curation takes: for `--dry-run`, as a stage of a pipeline, and for `rethink check`."""

from __future__ import annotations

from typing import Any

from rethink.kinds.samples.recipe import CurateRecipe
from rethink.plan.costs import Costs, sampling_costs
from rethink.plan.estimate import MachineRates
from rethink.recipe.kind import Drawn, Planned
from rethink.recipe.schema import ModelShape, RolloutSection
from rethink.runs.examined import Examined


def plan(recipe: CurateRecipe) -> Planned:
    """How much the run draws at most."""
    sampling = recipe.sampling
    samples = 0 if recipe.source is not None else recipe.problems * sampling.per_problem
    facts = {"problems": recipe.problems, "samples": samples, "most_tokens": samples * sampling.max_new_tokens}
    lines = []
    if recipe.source is not None:
        lines.append(f"Reads the samples of {recipe.source}; none are drawn.")
    else:
        if recipe.endpoint.model is not None:
            lines.append(f"Asks {recipe.endpoint.model} at {recipe.endpoint.url}.")
        lines.append(
            f"Draws {sampling.per_problem} samples of each of at most {recipe.problems:,} problems: {samples:,} "
            f"samples of at most {sampling.max_new_tokens:,} tokens, {facts['most_tokens']:,} in all."
        )
    if recipe.teacher.model is not None:
        lines.append(
            f"What is kept is rewritten by {recipe.teacher.model}, at most {recipe.teacher.max_tokens:,} tokens each."
        )
    return Planned({"plan": facts}, "\n".join(lines))


def costs(recipe: CurateRecipe, shape: ModelShape, _: Any, rates: MachineRates | None) -> Costs:
    """As a stage of a pipeline; completions are taken at their token limit."""
    if samples_elsewhere(recipe):
        return Costs()
    sampling = recipe.sampling
    completions = recipe.problems * sampling.per_problem * sampling.max_new_tokens
    return sampling_costs(shape, recipe.problems, completions, rates)


def drawn(recipe: CurateRecipe) -> Drawn | None:
    """What the stage leaves at most; None where it reads a file of samples."""
    if recipe.source is not None:
        return None
    each = recipe.sampling.per_problem if recipe.choose.rule == "all" else recipe.choose.keep
    return Drawn(
        problems=recipe.problems,
        per_problem=recipe.sampling.per_problem,
        kept_per_problem=min(each, recipe.sampling.per_problem),
        max_new_tokens=recipe.sampling.max_new_tokens,
        talk_share=recipe.general.share,
        talk_tokens=recipe.general.max_new_tokens,
    )


def samples_elsewhere(recipe: CurateRecipe) -> bool:
    """Whether an endpoint or a file takes the place of a model here."""
    return not recipe.samples_here


def checked(recipe: CurateRecipe) -> Examined | None:
    """What `rethink check` examines; None where no model here is asked."""
    if not recipe.tasks or not recipe.samples_here:
        return None
    sampling = recipe.sampling
    return Examined(
        RolloutSection(
            prompts_per_batch=sampling.prompts_per_batch,
            group_size=sampling.per_problem,
            max_new_tokens=sampling.max_new_tokens,
        )
    )
