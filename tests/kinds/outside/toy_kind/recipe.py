"""What a toy run is."""

from typing import ClassVar, Literal

from pydantic import Field

from rethink.recipe.schema import AnyRecipe, CheckpointSection, ModelSection, TaskSource


class ToyRecipe(AnyRecipe):
    """A copy in steps."""

    FREE: ClassVar[tuple[str, ...]] = ("name", "description", "steps", "checkpoint")

    kind: Literal["toy"] = "toy"
    """What is run."""
    seed: int = Field(default=0, ge=0)
    """Changes nothing."""
    steps: int = Field(gt=0)
    """Steps in all."""
    model: ModelSection = ModelSection()
    """What is copied."""
    tasks: tuple[TaskSource, ...] = ()
    """What `rethink check` looks at."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Checkpoints."""
