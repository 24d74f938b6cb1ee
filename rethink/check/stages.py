"""What of a pipeline can be checked before it runs: each stage that scores completions, as a run of its own.

A model that another stage will make is not there yet. For prompts and limits the model that it descends from takes its
place, and nothing is sampled; reward parts and tasks that other stages make are left out, which the report says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rethink.errors import RecipeError
from rethink.kinds.pipeline.stages import ResolvedStage, pipeline_of, references, resolve
from rethink.recipe.kind import kind_named
from rethink.recipe.schema import AnyRecipe, Recipe


@dataclass(frozen=True, slots=True)
class Checkable:
    """One check of a recipe."""

    stage: str | None
    """None: the recipe itself."""
    recipe: Recipe
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
        itself = kind.load("checked")(recipe) if kind.checked else None
        found = [] if itself is None else [Checkable(None, *itself)]
    if not found:
        raise RecipeError(
            f"`rethink check` examines tasks, rewards and prompts, and `{recipe.name}` (of the kind `{recipe.kind}`) "
            "scores no completions of a model. `rethink train RECIPE --dry-run` reads its data and says what it takes."
        )
    return found


def _of_stage(stage: ResolvedStage, by_name: Mapping[str, ResolvedStage]) -> Checkable | None:
    """A stage as a run that needs no other; None where it is of another kind, or nothing of it is left."""
    kind = kind_named(stage.kind)
    itself = kind.load("checked")(stage.recipe) if kind.checked else None
    if itself is None:
        return None
    run, learns = itself
    # `python` mode keeps what JSON has no word for (a step as the key of a mapping).
    data = run.model_dump()
    left_out: list[str] = []
    inherited = bool(references(run.model.path))
    if inherited:
        data["model"]["path"] = _origin(run.model.path, by_name)
        left_out.append(f"sampling, since `{run.model.path}` is not made yet")
    parts = [part for part in data["reward"]["parts"] if not references(part)]
    missing = {part["name"] for part in data["reward"]["parts"]} - {part["name"] for part in parts}
    data["reward"]["parts"] = parts
    left_out += [f"the reward part `{name}`" for name in sorted(missing)]
    data["tasks"] = [kept for task in data["tasks"] if (kept := _without(task, missing)) is not None]
    if len(data["tasks"]) < len(run.tasks):
        left_out.append("tasks that other stages make, or alone reward")
    if not parts or not any(task["weight"] or task["curriculum"] for task in data["tasks"]):
        return None
    return Checkable(stage.name, Recipe.model_validate(data), learns and not inherited, tuple(left_out))


def _origin(path: str, by_name: Mapping[str, ResolvedStage]) -> str:
    """The model that a stage's model descends from; stages are in order, so this ends."""
    while used := references(path):
        path = by_name[used[0][0]].recipe.model.path  # type: ignore[attr-defined]
    return path


def _without(task: dict[str, Any], missing: set[str]) -> dict[str, Any] | None:
    """A task without the reward parts that are missing; None where it cannot be asked or would have no reward."""
    if references(task):
        return None
    if task["reward"] is None:
        return task
    left = [name for name in task["reward"] if name not in missing]
    return {**task, "reward": left} if left else None
