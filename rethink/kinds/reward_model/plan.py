"""What training a reward model takes: for `--dry-run`, and as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rethink.kinds.reward_model.recipe import PreferenceRows, RewardDataSize, RewardModelRecipe
from rethink.kinds.reward_model.run import load_start, read_data
from rethink.kinds.reward_model.show import data_lines
from rethink.machine.placement import check_device
from rethink.plan.costs import Costs
from rethink.plan.estimate import ASSUMED_PROMPT_TOKENS, MachineRates
from rethink.plan.training import Reading, TrainingEstimate, estimate_training, training_text
from rethink.recipe.kind import Drawn, Planned
from rethink.recipe.schema import ModelShape
from rethink.runs.planning import known_shape, measure, planned


def plan(recipe: RewardModelRecipe) -> Planned:
    """What the run would take.

    A recipe that declares `model.shape` and `data_size` is estimated from itself alone. Otherwise the model's headers
    and all data are read, as the run itself would.

    Raises:
        UsageError: the recipe, model or data does not allow the run.
    """
    check_device(recipe.device)
    facts: dict[str, Any] | None = None
    sizes: dict[str, int] = {}
    shape, size = recipe.model.shape, recipe.data_size
    if shape is None or size is None:
        shape, size, facts, sizes = _look(recipe)
    dtype, rates = measure(recipe)
    expected = estimate_reward_model(recipe, shape, size, rates, **sizes)
    longest = sizes.get("longest") or recipe.max_tokens or shape.context
    more = ({"data": facts}, data_lines(facts) if facts else [])
    return planned(recipe.model, shape, dtype, expected, training_text(expected, "examples"), longest, more)


def estimate_reward_model(
    recipe: RewardModelRecipe,
    shape: ModelShape,
    size: RewardDataSize,
    rates: MachineRates | None = None,
    *,
    longest: int | None = None,
    held_out_tokens: int = 0,
) -> TrainingEstimate:
    """Tokens, operations, memory and time of a run. There is no projection to the vocabulary; evaluations only read.

    Args:
        recipe: the run.
        shape: of the model.
        size: of the data to train on, measured or as the recipe declares it.
        rates: the machine's; None leaves the time out.
        longest: tokens of the longest example, all its responses; None: two (for labels, one) of `max_tokens`, or of
            the model's context.
        held_out_tokens: of one evaluation.
    """
    responses = 2 if recipe.objective == "pairwise" else 1
    steps = recipe.total_steps(size.examples)
    evaluations = 2 + (steps // recipe.evaluation.every if recipe.evaluation.every else 0)
    reading = Reading(
        size.examples,
        size.tokens,
        trained_tokens=0.0,
        visits=recipe.visits(size.examples),
        batch=recipe.batch_size,
        steps=steps,
        sequences=responses,
        evaluated_tokens=evaluations * held_out_tokens,
    )
    return estimate_training(recipe, shape, reading, longest or responses * (recipe.max_tokens or shape.context), rates)


def _look(recipe: RewardModelRecipe) -> tuple[ModelShape, RewardDataSize, dict[str, Any], dict[str, int]]:
    """The model's shape from its headers; the data's size, their facts, and the lengths that the estimate takes."""
    checkpoint = load_start(recipe, headers_only=True)
    shape = known_shape(recipe.model, checkpoint)
    data = read_data(recipe, checkpoint)
    tokens = [example.tokens for example in data.train]
    size = RewardDataSize(examples=len(tokens), tokens=sum(tokens) / len(tokens))
    held_out = sum(example.tokens for example in data.held_out)
    return shape, size, data.facts, {"longest": max(tokens), "held_out_tokens": held_out}


def costs(
    recipe: RewardModelRecipe, shape: ModelShape, drawn: Callable[[str], Drawn | None], rates: MachineRates | None
) -> Costs:
    """As a stage of a pipeline; pairs are taken at what can be made of the samples of stages before."""
    pairs = recipe.data_size or pairs_size(recipe, drawn)
    if pairs is None:
        return Costs()
    longest = None if recipe.data_size else round(pairs.tokens)
    found = estimate_reward_model(recipe, shape, pairs, rates, longest=longest)
    return Costs(found.total_tokens, found.total_flops, found.total_seconds, found.memory, longest or recipe.max_tokens)


def pairs_size(recipe: PreferenceRows, drawn: Callable[[str], Drawn | None]) -> RewardDataSize | None:
    """Of pairs that are made of the samples of stages before, at most; None where they come from elsewhere too."""
    pairs, longest = 0, 0
    for entry in recipe.data:
        made = drawn(entry.path)
        if made is None:
            return None
        pairs += made.problems * min(entry.pairs_per_question, made.per_problem // 2)
        longest = max(longest, made.max_new_tokens)
    if not pairs:
        return None
    return RewardDataSize(examples=pairs, tokens=2 * (ASSUMED_PROMPT_TOKENS + longest))
