"""What of a pipeline can be checked before it runs: each stage that scores completions, as a run of its own.

A model that another stage will make is not there yet. For prompts and limits the model that it descends from takes its
place, and nothing is sampled; reward parts and tasks that other stages make are left out, which the report says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rethink.errors import RecipeError
from rethink.kinds.pipeline.stages import ResolvedStage, pipeline_of, references, resolve
from rethink.recipe.base import AnyRecipe, AskingRecipe, ModelRecipe
from rethink.recipe.kind import kind_named
from rethink.recipe.schema import TaskSource
from rethink.runs.examined import Examined


@dataclass(frozen=True, slots=True)
class Checkable:
    """One check of a recipe."""

    stage: str | None
    """None: the recipe itself."""
    recipe: AskingRecipe
    how: Examined
    sampled: bool
    """Whether the model can be sampled now, and learns from what it samples."""
    left_out: tuple[str, ...] = ()
    """What other stages make and the check does without, in words."""


def checkables(recipe: AnyRecipe) -> list[Checkable]:
    """What of a recipe can be checked: itself, where it scores completions, or the stages of a pipeline.

    Raises:
        RecipeError: nothing in it scores completions, or a stage's recipe is refused.
    """
    kind = kind_named(recipe.kind)
    if kind.stages is not None:
        stages = resolve(pipeline_of(recipe))
        by_name = {stage.name: stage for stage in stages}
        found = [one for stage in stages if (one := _of_stage(stage, by_name)) is not None]
    else:
        how = _how(recipe)
        found = [] if how is None else [Checkable(None, *how, how[1].learns)]
    if not found:
        raise RecipeError(
            f"`rethink check` examines tasks, rewards and prompts, and `{recipe.name}` (of the kind `{recipe.kind}`) "
            "scores no completions of a model. `rethink train RECIPE --dry-run` reads its data and says what it takes."
        )
    return found


def _how(recipe: AnyRecipe) -> tuple[AskingRecipe, Examined] | None:
    """A recipe that can be checked, and how it samples; None: its kind has nothing to check."""
    kind = kind_named(recipe.kind)
    how = kind.load("checked")(recipe) if kind.checked else None
    if how is None:
        return None
    assert isinstance(recipe, AskingRecipe)
    return recipe, how


def _of_stage(stage: ResolvedStage, by_name: Mapping[str, ResolvedStage]) -> Checkable | None:
    """A stage as a run that needs no other; None where it is of another kind, or nothing of it is left."""
    found = _how(stage.recipe)
    if found is None:
        return None
    recipe, how = found
    left_out: list[str] = []
    model, inherited = recipe.model, bool(references(recipe.model.path))
    if inherited:
        left_out.append(f"sampling, since `{model.path}` is not made yet")
        model = model.model_copy(update={"path": _origin(model.path, by_name)})
    parts = tuple(part for part in recipe.reward.parts if not references(part.model_dump()))
    missing = {part.name for part in recipe.reward.parts} - {part.name for part in parts}
    left_out += [f"the reward part `{name}`" for name in sorted(missing)]
    tasks = tuple(kept for task in recipe.tasks if (kept := _without(task, missing)) is not None)
    if len(tasks) < len(recipe.tasks):
        left_out.append("tasks that other stages make, or alone reward")
    if not parts or not any(task.weight or task.curriculum for task in tasks):
        return None
    reward = recipe.reward.model_copy(update={"parts": parts})
    alone = recipe.model_copy(update={"model": model, "reward": reward, "tasks": tasks})
    return Checkable(stage.name, alone, how, how.learns and not inherited, tuple(left_out))


def _origin(path: str, by_name: Mapping[str, ResolvedStage]) -> str:
    """The model that a stage's model descends from; stages are in order, so this ends."""
    while used := references(path):
        recipe = by_name[used[0][0]].recipe
        assert isinstance(recipe, ModelRecipe)
        path = recipe.model.path
    return path


def _without(task: TaskSource, missing: set[str]) -> TaskSource | None:
    """A task without the reward parts that are missing; None where it cannot be asked or would have no reward."""
    if references(task.model_dump()):
        return None
    if task.reward is None:
        return task
    left = tuple(name for name in task.reward if name not in missing)
    return task.model_copy(update={"reward": left}) if left else None
