"""What an evaluation takes: for `--dry-run`, and as a stage of a pipeline."""

from __future__ import annotations

from typing import Any

from rethink.kinds.eval.recipe import EvalRecipe
from rethink.plan.costs import Costs, sampling_costs
from rethink.plan.estimate import MachineRates
from rethink.recipe.kind import Planned
from rethink.recipe.schema import ModelShape


def most_tokens(recipe: EvalRecipe) -> int:
    """Most completion tokens of the whole evaluation."""
    return recipe.problems * recipe.samples * recipe.max_new_tokens


def plan(recipe: EvalRecipe) -> Planned:
    """How much the evaluation generates at most."""
    facts = {"problems": recipe.problems, "samples": recipe.samples, "most_tokens": most_tokens(recipe)}
    text = (
        f"Asks {recipe.problems:,} held-out problems, {recipe.samples} completion(s) of each of at most "
        f"{recipe.max_new_tokens:,} tokens, {facts['most_tokens']:,} in all."
    )
    return Planned({"plan": facts}, text)


def costs(recipe: EvalRecipe, shape: ModelShape, _: Any, rates: MachineRates | None) -> Costs:
    """As a stage of a pipeline; completions are taken at their token limit."""
    return sampling_costs(shape, recipe.problems, most_tokens(recipe), rates)
