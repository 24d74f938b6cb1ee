"""A pipeline as a recipe (`kind: pipeline`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rethink.kinds.pipeline.graph import StageGraph
from rethink.kinds.pipeline.stages import resolve


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
