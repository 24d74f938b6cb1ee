"""Supervised fine-tuning as a recipe: `kind: sft`.

A *document* is one row of the data, rendered with its template. A *step* is one optimizer update on `batch_sequences`
documents. An *epoch* is as many documents as all data sets together have rows for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rethink.recipe.base import RowsRecipe
from rethink.recipe.schema import Counts, EvaluationTimes, OptimizerSection, Section


class SFTPrompt(Section):
    """How a row is rendered to token ids."""

    template: Literal["chat", "r1-zero", "raw"] = "chat"
    """`chat`: the model's own chat template; `r1-zero`: the paper's conversation template around the user's turn;
    `raw`: prompt and completion unchanged, one after the other. All end the completion with an end-of-turn token."""
    system: str | None = None
    """System message for rows without one (`chat` only)."""


def system_without_place(prompt: SFTPrompt) -> Iterator[str]:
    """What is said of a system message that the template does not show."""
    if prompt.system is not None and prompt.template != "chat":
        yield (
            f"`prompt.system` has no place in the template `{prompt.template}`. Remove it, or set "
            "`prompt.template=chat`."
        )


class SFTData(Section):
    """A file of rows."""

    path: str
    """A JSONL file: a row is `{"messages": [{"role": …, "content": …}, …]}` (chat) or `{"prompt": …, "completion":
    …}`."""
    weight: float | None = Field(default=None, ge=0)
    """Share in the mixture, relative to the other sets. Either all sets have a weight or none. None: by the number of
    rows, so that an epoch is every row once."""
    format: Literal["auto", "messages", "prompt-completion"] = "auto"
    """The form of the rows. `auto` detects it for each row."""


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
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Schedule after the warm-up."""
    final_rate: float = Field(default=5e-6, ge=0)
    """Learning rate that `linear` and `cosine` reach after the last step. The last step itself has a slightly higher
    rate, never 0."""


class SFTEvaluation(EvaluationTimes):
    """Loss on documents that are never trained on."""

    share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the distinct prompts that is held out, at least one; 0 turns evaluation off. Rows with the same prompt
    (everything before the first assistant turn) are on the same side."""
    limit: int = Field(default=256, gt=0)
    """Most prompts that are held out; one document of each is evaluated."""


class SFTRecipe(RowsRecipe):
    """Supervised fine-tuning: the loss covers only the assistant's turns."""

    kind: Literal["sft"] = "sft"
    """Kind of run."""
    prompt: SFTPrompt = SFTPrompt()
    """How a row is rendered."""
    data: tuple[SFTData, ...] = Field(min_length=1)
    """Data sets, mixed by weight."""
    data_size: Annotated[SFTDataSize | None, Counts.NEVER] = None
    """Declared size: lets `--dry-run` estimate without the files, together with `model.shape`."""
    turns: Literal["all", "last"] = "all"
    """Assistant turns of a conversation that are in the loss: all, or the last one."""
    overlong: Literal["error", "drop"] = "error"
    """What happens to a longer document: refuse the data, naming file and line, or drop the document and count it."""
    batch_sequences: int = Field(default=16, gt=0)
    """Documents per step."""
    aggregation: Literal["token", "sequence"] = "token"
    """How token losses are averaged over a step: over all its trained tokens, or within a document and then over
    documents."""
    optimizer: SFTOptimizer = SFTOptimizer()
    """AdamW."""
    evaluation: SFTEvaluation = SFTEvaluation()
    """Held-out loss."""

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from super().contradictions()
        yield from system_without_place(self.prompt)
        weights = [entry.weight for entry in self.data]
        if None in weights and any(weight is not None for weight in weights):
            missing = weights.index(None)
            yield (
                f"`data.{missing}` has no `weight`, but another data set has one; shares cannot be told from row "
                "counts. Give every set a weight, or none."
            )
        elif None not in weights and not any(weights):
            yield "All sets in `data` have weight 0, so there would be no documents. Give one of them a weight above 0."
        if self.evaluation.every is not None and self.evaluation.share == 0:
            yield (
                f"`evaluation.every` is {self.evaluation.every}, but `evaluation.share` 0 turns evaluation off. Set "
                "`evaluation.share=0.05`, or remove `every`."
            )
