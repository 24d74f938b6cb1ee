"""What a toy run is."""

from typing import Annotated, Literal

from pydantic import Field

from rethink.recipe.base import AskingRecipe
from rethink.recipe.schema import CheckpointSection, Counts


class ToyRecipe(AskingRecipe):
    """A copy in steps."""

    kind: Literal["toy"] = "toy"
    """What is run."""
    steps: Annotated[int, Counts.WHEN_NEW] = Field(gt=0)
    """Steps in all."""
    checkpoint: Annotated[CheckpointSection, Counts.NEVER] = CheckpointSection()
    """Checkpoints."""

    def token_limits(self) -> dict[str, int]:
        return {"none": 256}
