"""What a GRPO run takes: for `--dry-run`, as a stage of a pipeline, and on disk."""

from __future__ import annotations

from typing import Any

from rethink.kinds.grpo.critic import critic_config
from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.recipe import Recipe
from rethink.machine.placement import check_device
from rethink.model.loading import load_model
from rethink.model.text.prompt import PromptRenderer
from rethink.plan.costs import Costs
from rethink.plan.estimate import MachineRates, shape_of
from rethink.plan.estimate_text import estimate_text
from rethink.recipe.checks import check_against_context
from rethink.recipe.kind import Drawn, Planned
from rethink.recipe.schema import ModelShape
from rethink.runs.choices import check_reward_models
from rethink.runs.examined import Examined
from rethink.runs.planning import known_shape, measure, planned

RENDERED_PROMPTS = 32
"""Problems that a dry run renders to learn how long prompts are."""
ROLLOUT_BYTES = 12
"""Most bytes on disk of a token in a rollout file, where its id and two log-probabilities are kept too."""
REFERENCE_BYTES = 4
"""Bytes a parameter of the reference model in a checkpoint."""
CRITIC_BYTES = 12
"""Bytes a parameter of the critic in a checkpoint: fp32 weight and two moments."""


def plan(recipe: Recipe) -> Planned:
    """What the run would take.

    A recipe that declares its model's shape is estimated from itself alone. Otherwise the model's headers are read and
    a few problems rendered (of files, all long ones), as the run itself would, so a missing file or a prompt that is
    too long shows up now.

    Raises:
        UsageError: the recipe, model or task does not allow the run.
    """
    check_device(recipe.device)
    shape, prompt_tokens, critic = recipe.model.shape, None, None
    if shape is None:
        check_reward_models(recipe.reward)
        shape, prompt_tokens, critic = _look(recipe)
    dtype, rates = measure(recipe)
    expected = estimate(recipe, shape, rates, prompt_tokens=prompt_tokens, critic=critic)
    longest = expected.prompt_tokens + recipe.longest_completion
    return planned(recipe.model, shape, dtype, expected, estimate_text(expected), longest)


def _look(recipe: Recipe) -> tuple[ModelShape, int, ModelShape | None]:
    """The model's shape from its headers, the mean length of the first prompts in tokens, and the critic's shape."""
    checkpoint = load_model(recipe.model, headers_only=True)
    shape = known_shape(recipe.model, checkpoint)
    critic = critic_config(recipe, checkpoint)
    check_against_context(recipe.prompt, recipe.token_limits(), shape.context)
    renderer = PromptRenderer(checkpoint.tokenizer, recipe.prompt, shape.context - recipe.longest_completion)
    mix = task_mix(recipe)
    lengths = [len(renderer.render(problem).token_ids) for problem in mix.train_batch(0, RENDERED_PROMPTS, 0)]
    for problem in mix.long_rows(renderer.surely_fits):
        renderer.render(problem)
    return shape, round(sum(lengths) / len(lengths)), None if critic is None else shape_of(critic)


def costs(recipe: Recipe, shape: ModelShape, _: Any, rates: MachineRates | None) -> Costs:
    """As a stage of a pipeline; completions are taken at their token limit, and a critic as large as the policy."""
    found = estimate(recipe, shape, rates)
    return Costs(
        tokens=float(found.generated_tokens + found.total_tokens),
        flops=found.total_flops,
        seconds=found.total_seconds,
        memory=found.memory,
        longest=found.prompt_tokens + recipe.longest_completion,
        disk_bytes=found.generated_tokens * ROLLOUT_BYTES,
    )


def drawn(recipe: Recipe) -> Drawn:
    """What its rollouts hold at most, for a reward model that is trained on them."""
    rollout, group = recipe.rollout, recipe.rollout.group_size
    asked = rollout.sampling_rounds.max_rounds * rollout.prompts_at_once
    return Drawn(-(-recipe.steps // recipe.steps_per_batch) * asked, group, group, recipe.longest_completion)


def keeps(recipe: Recipe) -> tuple[int, int]:
    """(models that it leaves, bytes a parameter that a checkpoint holds beside the optimizer's)."""
    return (
        1 if recipe.evaluation.every is None else 2,
        (REFERENCE_BYTES if "reference" in recipe.algorithm.needs else 0)
        + (CRITIC_BYTES if recipe.critic is not None else 0)
        + recipe.rollout.lag * recipe.model.value_bytes,
    )


def checked(recipe: Recipe) -> Examined:
    """What `rethink check` examines: it learns from what it samples."""
    return Examined(
        recipe.rollout,
        learns=True,
        held_out=recipe.evaluation.problems > 0,
        estimate=lambda shape, rates, prompt, completion: estimate(
            recipe, shape, rates, prompt_tokens=prompt, completion_tokens=completion
        ),
    )
