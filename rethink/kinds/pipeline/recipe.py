"""A pipeline as a recipe (`kind: pipeline`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar

from rethink.errors import RecipeError
from rethink.kinds.pipeline.graph import Stage, StageGraph
from rethink.kinds.pipeline.stages import resolve
from rethink.recipe.base import AnyRecipe
from rethink.recipe.explain import validated

R = TypeVar("R", bound=AnyRecipe)


class PipelineRecipe(StageGraph):
    """Stages as a graph, run in order, each once."""

    kind: Literal["pipeline"] = "pipeline"
    """Kind of run."""

    def contradictions(self) -> Iterator[str]:
        """None but those of its stages, which are raised one at a time."""
        resolve(self)
        yield from super().contradictions()


def itself(recipe: PipelineRecipe) -> PipelineRecipe:
    """A pipeline as a pipeline: unchanged."""
    return recipe


def of_one_stage(recipe: AnyRecipe, name: str, base: str) -> PipelineRecipe:
    """The pipeline with a recipe that stands for several stages as its only stage.

    Args:
        name: of the stage.
        base: the model that an `evaluation` also measures, for comparison.
    """
    body = recipe.model_dump(mode="json", exclude_unset=True)
    shared = {field: body.pop(field) for field in PipelineRecipe.model_fields if field in body and field != "kind"}
    body.pop("kind", None)
    evaluated = {"base": base} if shared.get("evaluation") is not None else {}
    stages = {name: Stage(kind=recipe.kind, recipe=body)}
    return PipelineRecipe.model_validate({**shared, "stages": stages, "evaluated": evaluated})


def body_of(recipe: type[R], name: str, stage: Stage) -> R:
    """What a stage that stands for several says, read as a recipe of its kind.

    Raises:
        RecipeError: it is refused, or has an `evaluation` of its own.
    """
    where = f"The stage `{name}`"
    body = validated(recipe, {**stage.recipe, "name": name, "kind": stage.kind}, where)
    if getattr(body, "evaluation", None) is not None:
        raise RecipeError(
            f"{where}: `evaluation` belongs to the pipeline, which measures every model. Move it to the top level."
        )
    return body
