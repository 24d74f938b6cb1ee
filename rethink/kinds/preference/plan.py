"""What a run on preferences takes: for `--dry-run`, and as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.kinds.preference.run import read_data
from rethink.kinds.reward_model.plan import pairs_size
from rethink.kinds.reward_model.recipe import RewardDataSize
from rethink.kinds.reward_model.show import data_lines
from rethink.machine.placement import check_device
from rethink.model.loading import load_model
from rethink.plan.costs import Costs
from rethink.plan.estimate import MachineRates
from rethink.plan.training import Reading, TrainingEstimate, estimate_training, training_text
from rethink.recipe.checks import check_warmup
from rethink.recipe.kind import Drawn, Planned
from rethink.recipe.schema import ModelShape
from rethink.runs.planning import known_shape, measure, planned


@dataclass(frozen=True, slots=True)
class DataSize:
    """Of the examples, measured or as the recipe declares them."""

    examples: int
    tokens: float
    """Mean of an example, prompt and answers."""
    answer_tokens: float
    """Mean of the answers of an example."""
    longest: int
    """Tokens of the longest example."""
    held_out_tokens: int = 0


def plan(recipe: PreferenceRecipe) -> Planned:
    """What the run would take.

    A recipe that declares `model.shape` and `data_size` is estimated from itself alone. Otherwise the model's headers
    and all data are read, as the run itself would.

    Raises:
        UsageError: the recipe, model or data does not allow the run.
    """
    check_device(recipe.device)
    facts: dict[str, Any] | None = None
    shape = recipe.model.shape
    if shape is None or recipe.data_size is None:
        shape, size, facts = _look(recipe)
    else:
        size = declared(recipe, shape, recipe.data_size)
    dtype, rates = measure(recipe)
    expected = estimate_preference(recipe, shape, size, rates)
    more = ({"data": facts}, data_lines(facts) if facts else [])
    text = training_text(expected, "examples")
    return planned(recipe.model, shape, dtype, expected, text, size.longest, more)


def estimate_preference(
    recipe: PreferenceRecipe, shape: ModelShape, size: DataSize, rates: MachineRates | None
) -> TrainingEstimate:
    """Tokens, operations, memory and time of a run: training, evaluations, the reference model, and KTO's KL."""
    objective, section = recipe.algorithm.objective, recipe.algorithm
    steps, visits = recipe.total_steps(size.examples), recipe.visits(size.examples)
    evaluations = 2 + (steps // recipe.evaluation.every if recipe.evaluation.every else 0)
    read = evaluations * size.held_out_tokens
    kl = "kl" in objective.needs
    if "reference" in objective.needs:
        once = size.examples * size.tokens + size.held_out_tokens
        read += round((1 + kl) * (once if section.reference == "stored" else visits * size.tokens))
    if kl:
        read += round(visits * size.tokens)
    reading = Reading(
        size.examples,
        size.tokens,
        size.answer_tokens,
        visits=visits,
        batch=recipe.batch_size,
        steps=steps,
        sequences=2 if objective.paired else 1,
        evaluated_tokens=read,
    )
    found = estimate_training(recipe, shape, reading, size.longest, rates)
    if section.reference == "stored":
        return found
    weights = recipe.model.value_bytes * found.parameters.total
    return replace(found, memory=replace(found.memory, reference_weights=weights))


def declared(recipe: PreferenceRecipe, shape: ModelShape, size: RewardDataSize) -> DataSize:
    """The size that a recipe declares, all of it taken for answers."""
    answers = 2 if recipe.algorithm.objective.paired else 1
    return DataSize(size.examples, size.tokens, size.tokens, answers * (recipe.max_tokens or shape.context))


def _look(recipe: PreferenceRecipe) -> tuple[ModelShape, DataSize, dict[str, Any]]:
    """The model's shape from its headers; the data's size and facts."""
    checkpoint = load_model(recipe.model, headers_only=True)
    shape = known_shape(recipe.model, checkpoint)
    data = read_data(recipe, checkpoint).examples
    check_warmup(recipe.optimizer, recipe.total_steps(len(data.train)))
    number = len(data.train)
    tokens = [example.tokens for example in data.train]
    answers = sum(example.tokens - len(example.group.prompt_ids) for example in data.train)
    held_out = sum(example.tokens for example in data.held_out)
    return shape, DataSize(number, sum(tokens) / number, answers / number, max(tokens), held_out), data.facts


def costs(
    recipe: PreferenceRecipe, shape: ModelShape, drawn: Callable[[str], Drawn | None], rates: MachineRates | None
) -> Costs:
    """As a stage of a pipeline; pairs are taken at what can be made of the samples of stages before."""
    pairs = recipe.data_size or pairs_size(recipe, drawn)
    if pairs is None:
        return Costs()
    size = declared(recipe, shape, pairs)
    if recipe.data_size is None:
        size = replace(size, longest=round(pairs.tokens))
    found = estimate_preference(recipe, shape, size, rates)
    return Costs(found.total_tokens, found.total_flops, found.total_seconds, found.memory, size.longest)
