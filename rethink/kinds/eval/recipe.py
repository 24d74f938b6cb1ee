"""Evaluation of one model on held-out problems as a recipe: `kind: eval`, what a pipeline measures its models with.

For published benchmarks by the paper's protocol there is `rethink eval`; this kind asks the held-out problems of task
sources, in the very prompt that the stages train with.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rethink.errors import RecipeError
from rethink.recipe.schema import (
    AnyRecipe,
    ModelSection,
    PromptSection,
    Recipe,
    RewardSection,
    RolloutSection,
    TaskSource,
)


class EvalRecipe(AnyRecipe):
    """Completions of held-out problems with their scores."""

    FREE: ClassVar[tuple[str, ...]] = (
        "name",
        "description",
        "reward.seconds",
        "reward.memory_gb",
        "reward.workers",
        "model.shape",
        "model.trust_remote_code",
    )
    """What may change on resume: see `identity.py`."""

    kind: Literal["eval"] = "eval"
    """What is run."""
    seed: int = Field(default=0, ge=0)
    """Decides the samples where `temperature` is above 0. The problems are the same for every seed."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None: the cores this process may use. Recorded, and reused on resume."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. `auto`: CUDA where torch has it."""
    model: ModelSection = ModelSection()
    """The model."""
    prompt: PromptSection = PromptSection()
    """From problem to prompt."""
    tasks: tuple[TaskSource, ...] = Field(min_length=1)
    """Sources of problems, mixed by weight."""
    reward: RewardSection = RewardSection()
    """What scores a completion; `accuracy` and `format` are the parts that tables show."""
    problems: int = Field(default=200, gt=0)
    """Held-out problems."""
    samples: int = Field(default=1, gt=0)
    """Completions of each; more than one needs a `temperature` above 0."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy. The paper samples at 0.6."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass. The paper's is 0.95."""
    max_new_tokens: int = Field(default=256, gt=0)
    """Token limit of a completion."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end a completion, beside the model's end-of-turn tokens."""
    language: Literal["en", "es", "fr", "de", "ru", "ar", "zh", "ja"] = "en"
    """Language that thoughts should be in."""
    kv_budget_gb: float | None = Field(default=None, gt=0)
    """Memory for keys and values (GiB); None: a share of what is free at start, recorded."""

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> EvalRecipe:
        if self.samples > 1 and self.temperature == 0:
            raise RecipeError(
                f"`samples` is {self.samples}, but `temperature` 0 is greedy: all of a problem's completions would be "
                "the same. Write `temperature: 0.6`, or `samples: 1`."
            )
        self.as_grpo()  # its tasks, prompt and rewards are checked as those of a run
        return self

    def as_grpo(self) -> Recipe:
        """A GRPO recipe with the same model, prompt, tasks and rewards: what the parts are built from."""
        return Recipe(
            name=self.name,
            seed=self.seed,
            steps=1,
            threads=self.threads,
            device=self.device,
            model=self.model,
            prompt=self.prompt,
            tasks=self.tasks,
            reward=self.reward,
            rollout=RolloutSection(
                max_new_tokens=self.max_new_tokens, stop_strings=self.stop_strings, kv_budget_gb=self.kv_budget_gb
            ),
        )
