"""Evaluation of one model on held-out problems as a recipe: `kind: eval`. A pipeline measures its models with it.

`rethink eval` runs published benchmarks with the paper's protocol. This kind uses the held-out problems of task
sources, with the same prompt as training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rethink.recipe.base import AskingRecipe
from rethink.recipe.schema import TaskSource


class EvalRecipe(AskingRecipe):
    """Completions of held-out problems with their scores."""

    kind: Literal["eval"] = "eval"
    """Kind of run."""
    tasks: tuple[TaskSource, ...] = Field(min_length=1)
    """Sources of problems, mixed by weight."""
    problems: int = Field(default=200, gt=0)
    """Held-out problems."""
    samples: int = Field(default=1, gt=0)
    """Completions per problem; more than one needs a `temperature` above 0."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy. The paper samples at 0.6."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass. The paper uses 0.95."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token limit of a completion."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end a completion, in addition to the model's end-of-turn tokens."""
    language: Literal["en", "es", "fr", "de", "ru", "ar", "zh", "ja"] = "en"
    """Language that thoughts should be in."""
    kv_budget_gb: float | None = Field(default=None, gt=0)
    """Memory for keys and values (GiB); None: a share of the free memory at start, recorded."""

    def token_limits(self) -> dict[str, int]:
        """The token limit of a completion, by its key."""
        return {"max_new_tokens": self.max_new_tokens}

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from super().contradictions()
        if self.samples > 1 and self.temperature == 0:
            yield (
                f"`samples` is {self.samples}, but `temperature` 0 is greedy: all of a problem's completions would be "
                "the same. Write `temperature: 0.6`, or `samples: 1`."
            )
        if "" in self.stop_strings:
            yield "`stop_strings` holds an empty string, which would end every completion at once. Remove it."
