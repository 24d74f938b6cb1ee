"""Problems of a GRPO run, and what scores their completions."""

from __future__ import annotations

from rethink.kinds.grpo.recipe import Recipe
from rethink.rewards.rubric import Rubric, build_rubric
from rethink.tasks.mix import TaskMix, build_task_mix


def task_mix(recipe: Recipe) -> TaskMix:
    """The recipe's problems.

    Raises:
        TaskError: a source cannot be found or read.
    """
    return build_task_mix(
        recipe.tasks, recipe.reward, recipe.seed, steps=recipe.steps, steps_per_batch=recipe.steps_per_batch
    )


def rubric_of(recipe: Recipe, mix: TaskMix, dtype: str = "float32", device: str = "cpu") -> Rubric:
    """The recipe's rewards for the problems of `mix`; see `build_rubric`.

    Raises:
        RecipeError: as `build_rubric`.
    """
    return build_rubric(recipe.reward, mix.judges(), mix.rewarded(), dtype=dtype, device=device)
