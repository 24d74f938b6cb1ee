"""Supervised fine-tuning as a recipe: `kind: sft`.

Counting: a *document* is one row of the data with its template around it; a *step* is one optimizer update on
`batch_sequences` documents. An *epoch* is as many documents as all data sets together have rows for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rethink.errors import RecipeError
from rethink.recipe.schema import AnyRecipe, CheckpointSection, ModelSection, OptimizerSection, Section


class SFTPrompt(Section):
    """How a row becomes token ids."""

    template: Literal["chat", "r1-zero", "raw"] = "chat"
    """`chat`: the model's own chat template; `r1-zero`: the paper's conversation template around the user's turn;
    `raw`: prompt and completion as they stand, one after the other. All end the completion with an end-of-turn
    token."""
    system: str | None = None
    """System message for rows that bring none (`chat` only)."""


class SFTData(Section):
    """A file of rows."""

    path: str
    """A JSONL file: a row is `{"messages": [{"role": …, "content": …}, …]}` (chat) or `{"prompt": …, "completion":
    …}`."""
    weight: float | None = Field(default=None, ge=0)
    """Share in the mixture, relative to the other sets: all have one or none has. None: by the number of rows, so that
    an epoch is every row once."""
    format: Literal["auto", "messages", "prompt-completion"] = "auto"
    """Which of the two a row is. `auto` looks at each row."""


class SFTDataSize(Section):
    """Declared size of the data, so that a dry run needs no file."""

    documents: int = Field(gt=0)
    """Rows of all data sets together."""
    tokens: float = Field(gt=0)
    """Mean tokens of a document."""
    trained_tokens: float = Field(gt=0)
    """Mean tokens of a document that are in the loss."""


class SFTOptimizer(OptimizerSection):
    """AdamW on fp32 master weights, with the paper's schedule for SFT (arXiv 2501.12948: cosine 5e-5 to 5e-6)."""

    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape after warm-up."""
    final_rate: float = Field(default=5e-6, ge=0)
    """Rate that `linear` and `cosine` come to after the last step, which itself has a little more: never 0."""


class SFTEvaluation(Section):
    """Loss on documents that are never trained on."""

    share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the distinct prompts that is held out, at least one; 0 turns evaluation off. Rows with the same prompt
    (what comes before the first assistant turn) are on the same side."""
    limit: int = Field(default=256, gt=0)
    """Most prompts that are held out; one document of each is evaluated."""
    every: int | None = Field(default=None, gt=0)
    """Evaluate every so many steps, beside before and after."""


class SFTRecipe(AnyRecipe):
    """Supervised fine-tuning: the loss is on the assistant's turns alone."""

    FREE: ClassVar[tuple[str, ...]] = (
        "name",
        "description",
        "steps",
        "epochs",
        "evaluation.every",
        "checkpoint",
        "trackers",
        "data_size",
        "model.shape",
        "model.trust_remote_code",
        "optimizer.over_memory",
    )
    """What may change on resume: see `identity.py`."""

    kind: Literal["sft"] = "sft"
    """What is run."""
    seed: int = Field(default=0, ge=0)
    """Decides the order of the documents."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data; the last step may hold fewer documents. Give this or `steps`."""
    steps: int | None = Field(default=None, gt=0)
    """Optimizer updates in all. Give this or `epochs`."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads; None: the cores this process may use. Recorded, and reused on resume."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. `auto`: CUDA where torch has it."""
    model: ModelSection = ModelSection()
    """The model."""
    prompt: SFTPrompt = SFTPrompt()
    """From row to tokens."""
    data: tuple[SFTData, ...] = Field(min_length=1)
    """Data sets, mixed by weight."""
    data_size: SFTDataSize | None = None
    """Declared size: lets `--dry-run` estimate without the files, together with `model.shape`."""
    turns: Literal["all", "last"] = "all"
    """Which assistant turns of a conversation are in the loss: every one, or the last."""
    max_tokens: int | None = Field(default=None, gt=1)
    """Longest document; None: the model's context."""
    overlong: Literal["error", "drop"] = "error"
    """What happens to a longer one: refuse the data, naming file and line, or leave it out and count it."""
    batch_sequences: int = Field(default=16, gt=0)
    """Documents of a step."""
    aggregation: Literal["token", "sequence"] = "token"
    """How token losses are averaged over a step: over all its trained tokens, or within a document and then over
    documents."""
    optimizer: SFTOptimizer = SFTOptimizer()
    """AdamW."""
    evaluation: SFTEvaluation = SFTEvaluation()
    """Held-out loss."""
    checkpoint: CheckpointSection = CheckpointSection()
    """Checkpoints."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where metrics go beside the run's folder (extra `trackers`)."""

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> SFTRecipe:
        found = list(_problems(self))
        if found:
            raise RecipeError(" ".join(found))
        return self


def check_warmup(recipe: SFTRecipe, steps: int) -> None:
    """Refuse a warm-up that fills the run; `steps` is known once the data are read, where `epochs` are given.

    Raises:
        RecipeError: names both and what would fit.
    """
    warmup = recipe.optimizer.warmup_steps
    if warmup and warmup >= steps:
        raise RecipeError(
            f"`optimizer.warmup_steps` {warmup} is not below the {steps} steps of the run, so the learning rate would "
            f"never reach its peak. Use at most {steps - 1}."
        )


def _problems(recipe: SFTRecipe) -> Iterator[str]:
    if (recipe.steps is None) == (recipe.epochs is None):
        given = (
            "Neither `epochs` nor `steps` is given" if recipe.steps is None else "Both `epochs` and `steps` are given"
        )
        yield f"{given}; the length of a run is one of them. Write `epochs: 2` (2 or 3 are usual), or `steps: 100`."
    if recipe.steps is not None:
        try:
            check_warmup(recipe, recipe.steps)
        except RecipeError as error:
            yield str(error)
    optimizer = recipe.optimizer
    if optimizer.schedule != "constant" and optimizer.final_rate > optimizer.learning_rate:
        yield (
            f"`optimizer.final_rate` {optimizer.final_rate:g} is above `optimizer.learning_rate` "
            f"{optimizer.learning_rate:g}; the schedule falls. Use a final rate of at most the learning rate, such as "
            f"`optimizer.final_rate={optimizer.learning_rate / 10:g}`."
        )
    if recipe.prompt.system is not None and recipe.prompt.template != "chat":
        yield (
            f"`prompt.system` has no place in the template `{recipe.prompt.template}`. Remove it, or set "
            "`prompt.template=chat`."
        )
    weights = [entry.weight for entry in recipe.data]
    if None in weights and any(weight is not None for weight in weights):
        missing = weights.index(None)
        yield (
            f"`data.{missing}` has no `weight`, but another data set has one; shares cannot be told from row counts. "
            "Give every set a weight, or none."
        )
    elif None not in weights and not any(weights):
        yield "All sets in `data` have weight 0, so there would be no documents. Give one of them a weight above 0."
    if recipe.evaluation.every is not None and recipe.evaluation.share == 0:
        yield (
            f"`evaluation.every` is {recipe.evaluation.every}, but `evaluation.share` 0 turns evaluation off. Set "
            "`evaluation.share=0.05`, or remove `every`."
        )
