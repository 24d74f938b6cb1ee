"""A pipeline as a recipe (`kind: pipeline`)."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rethink.kinds.pipeline.graph import StageGraph
from rethink.kinds.pipeline.stages import resolve


class PipelineRecipe(StageGraph):
    """Stages as a graph, run in order, each once."""

    kind: Literal["pipeline"] = "pipeline"
    """What is run."""

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> PipelineRecipe:
        resolve(self)
        return self


def itself(recipe: PipelineRecipe) -> PipelineRecipe:
    """A pipeline is made of the stages that it says."""
    return recipe
