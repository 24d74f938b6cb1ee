"""What recipes of several kinds have in common: the fields, and what is refused in them.

    AnyRecipe ─► ModelRecipe ─┬─► AskingRecipe     a model answers problems, and rewards score it (eval, samples)
                              └─► TrainingRecipe   a model is trained (grpo, which asks too)
                                      └─► RowsRecipe   on rows of data, for so many epochs (sft, reward-model)

A kind's own recipe, in its folder, derives from one of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rethink.errors import RecipeError
from rethink.recipe.checks import optimizer_contradictions, section_contradictions
from rethink.recipe.schema import (
    CheckpointSection,
    Counts,
    EvaluationTimes,
    ModelSection,
    OptimizerSection,
    PromptSection,
    RewardSection,
    Section,
    TaskSource,
)


class HeldOut(Section):
    """How a run samples held-out problems, one completion each."""

    problems: int = Field(ge=0)
    """How many."""
    temperature: float = Field(ge=0)
    """0: greedy."""
    max_new_tokens: int = Field(gt=0)
    """Token limit of a completion."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end a completion."""


class AnyRecipe(Section):
    """Fields of every recipe, whatever its kind."""

    name: Annotated[str, Counts.NEVER, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Short name; the run folder is `runs/<name>` unless `--out` names another."""
    kind: str
    """Kind of run."""
    description: Annotated[str, Counts.NEVER] = ""
    """One or two sentences for the reader."""
    seed: int = Field(default=0, ge=0)
    """Determines everything random: problems, samples, the order of rows. A stage without its own `seed`, `threads` or
    `device` uses the pipeline's."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None: the cores that this process may use. Recorded, and reused on resume."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device. `auto`: CUDA if torch supports it."""

    @property
    def length(self) -> int | None:
        """Optimizer updates in all; None: there are none, or the data decide."""
        return None

    def held_out_sampling(self) -> HeldOut | None:
        """How the model at the end is evaluated on held-out problems; None: it is not."""
        return None

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> AnyRecipe:
        self.settle()
        found = list(self.contradictions())
        if found:
            raise RecipeError(" ".join(found))
        return self

    def settle(self) -> None:
        """Set what one section leaves open and another decides."""

    def contradictions(self) -> Iterator[str]:
        """Values that contradict each other or would do nothing: a paragraph for each, with what to write instead."""
        yield from ()


class ModelRecipe(AnyRecipe):
    """A recipe that uses a model."""

    model: ModelSection = ModelSection()
    """The model."""


class AskingRecipe(ModelRecipe):
    """A recipe whose model answers problems, which rewards score."""

    prompt: PromptSection = PromptSection()
    """How a problem is rendered."""
    tasks: tuple[TaskSource, ...] = ()
    """Sources of problems, mixed by weight."""
    reward: RewardSection = RewardSection()
    """Rewards of a completion."""

    def token_limits(self) -> dict[str, int]:
        """Every token limit of a completion that holds at some time, by its key."""
        return {}

    def contradictions(self) -> Iterator[str]:
        """Of prompt, tasks, rewards and model, and of the kinds below."""
        yield from super().contradictions()
        yield from section_contradictions(
            self.prompt, self.tasks, self.reward, self.model, limits=self.token_limits(), steps=self.length
        )


class TrainingRecipe(ModelRecipe):
    """A recipe that trains a model."""

    optimizer: OptimizerSection = OptimizerSection()
    """AdamW."""
    evaluation: EvaluationTimes = EvaluationTimes()
    """Held-out evaluation."""
    checkpoint: Annotated[CheckpointSection, Counts.NEVER] = CheckpointSection()
    """Checkpoints."""
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], Counts.NEVER] = ()
    """Trackers that also receive the metrics (extra `trackers`)."""

    def contradictions(self) -> Iterator[str]:
        """Of the optimizer, and of the kinds below."""
        yield from super().contradictions()
        yield from optimizer_contradictions(self.optimizer, self.length)


class RowsRecipe(TrainingRecipe):
    """A recipe that trains a model on rows of data."""

    epochs: Annotated[float | None, Counts.WHEN_NEW] = Field(default=None, gt=0)
    """Passes over the data; the last step may have fewer rows. Give this or `steps`."""
    steps: Annotated[int | None, Counts.WHEN_NEW] = Field(default=None, gt=0)
    """Number of optimizer updates. Give this or `epochs`."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Longest row; None: the model's context."""

    @property
    def length(self) -> int | None:
        """Optimizer updates in all, where `epochs` do not say."""
        return self.steps

    def contradictions(self) -> Iterator[str]:
        """Of the length of the run, and of the kinds below."""
        yield from super().contradictions()
        if (self.steps is None) == (self.epochs is None):
            given = "Neither `epochs` nor `steps` is" if self.steps is None else "Both `epochs` and `steps` are"
            yield (
                f"{given} given; the length of a run is one of them. Write `epochs: 2` (1 to 3 are usual), or "
                "`steps: 100`."
            )
