"""What a toy run is."""

from typing import ClassVar, Literal

from pydantic import Field

from rethink.recipe.base import AskingRecipe
from rethink.recipe.schema import CheckpointSection


class ToyRecipe(AskingRecipe):
    """A copy in steps."""

    FREE: ClassVar[tuple[str, ...]] = ("name", "description", "steps", "checkpoint")

    kind: Literal["toy"] = "toy"
    """What is run."""
    steps: int = Field(gt=0)
    """Steps in all."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Checkpoints."""

    def token_limits(self) -> dict[str, int]:
        return {"none": 256}
