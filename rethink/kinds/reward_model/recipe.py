"""A reward model as a recipe: `kind: reward-model`.

An *example* is one preference pair, or one response with a label. A *step* is one optimizer update on `batch_size`
examples. An *epoch* is every training example once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rethink.recipe.base import RowsRecipe
from rethink.recipe.schema import Counts, EvaluationTimes, OptimizerSection, Section
from rethink.tasks.preferences import Rows

PreferenceFormat = Literal["preferences", "samples", "run"]


class PreferenceData(Section):
    """A source of examples."""

    path: str
    """A JSONL or Parquet (`.parquet`) file; with `format: run`, the folder of a GRPO run; with `hub: true`, the id of a
    data set."""
    format: PreferenceFormat = "preferences"
    """`preferences`: pairs or labelled responses in a usual form (docs/reward-models.md). `samples`: a sample file from
    which rules make pairs. `run`: the same from the rollouts of a GRPO run. Pairs made by rules are marked as
    synthetic."""
    hub: bool = False
    """Whether `path` is a data set on the hub (extra `hub`; `preferences` only)."""
    split: str = "train"
    """Split of a hub data set."""
    config: str | None = None
    """Configuration name of a hub data set."""
    held_out: str | None = None
    """Separate file (or split) of held-out examples; None: a share of the prompts (`evaluation.share`)."""
    pairs_per_question: int = Field(default=4, gt=0)
    """Most pairs per question (`samples`, `run`)."""


class RewardDataSize(Section):
    """Declared size of the data, so that a dry run needs no file."""

    examples: int = Field(gt=0)
    """Training examples of all sources together."""
    tokens: float = Field(gt=0)
    """Mean tokens of an example: the prompt and its response, or both responses of a pair."""


class ReplaySection(Section):
    """Earlier examples mixed into new ones: continued training of a reward model (DeepSeekMath, Algorithm 1)."""

    path: str
    """JSONL of earlier examples, such as `pairs.jsonl` of the earlier run."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training examples that are earlier ones, if there are enough (10 % in the paper)."""


class RewardModelOptimizer(OptimizerSection):
    """AdamW on fp32 master weights, with the published learning rate."""

    learning_rate: float = Field(default=6e-6, gt=0)
    """Peak learning rate (arXiv 2501.12948: 6e-6)."""


class PreferenceEvaluation(EvaluationTimes):
    """Accuracy on examples whose prompts are never trained on."""

    share: float = Field(default=0.1, ge=0, lt=1)
    """Share of the prompts that is held out, by a hash of the first user turn; 0 turns evaluation off, unless the data
    name held-out files."""
    limit: int = Field(default=1000, gt=0)
    """Most examples per evaluation."""


class PreferenceRows(RowsRecipe):
    """A recipe that trains a model on preferences."""

    data: tuple[PreferenceData, ...] = Field(min_length=1)
    """Sources of examples; all are used."""
    data_size: Annotated[RewardDataSize | None, Counts.NEVER] = None
    """Declared size: lets `--dry-run` estimate without the files, together with `model.shape`."""
    unusable: Literal["error", "drop"] = "error"
    """What happens to examples without a preference or without text (ties, equal responses, a worse response marked as
    chosen, different prompts, an empty response) or longer than `max_tokens`: refuse the data, with counts and the
    first of each; or drop them and count them in the summary."""
    batch_size: int = Field(default=32, gt=0)
    """Examples per step."""
    evaluation: PreferenceEvaluation = PreferenceEvaluation()
    """Held-out accuracy."""

    @property
    @abstractmethod
    def rows(self) -> Rows:
        """Which examples are trained on."""

    @property
    def scored_on(self) -> Literal["summary", "response"]:
        """What of a response counts."""
        return "response"

    def visits(self, examples: int) -> int:
        """Number of examples that a run visits, repeats included, given the number of distinct ones."""
        if self.steps is not None:
            return self.steps * self.batch_size
        assert self.epochs is not None
        return max(1, round(self.epochs * examples))

    def total_steps(self, examples: int) -> int:
        """Optimizer updates of a run, given the number of training examples."""
        return self.steps if self.steps is not None else -(-self.visits(examples) // self.batch_size)

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from super().contradictions()
        for index, data in enumerate(self.data):
            yield from _data(f"`data.{index}", data, self.rows)
        holds_out = self.evaluation.share > 0 or any(data.held_out for data in self.data)
        if not holds_out and self.evaluation.every is not None:
            yield (
                f"`evaluation.every` is {self.evaluation.every}, but `evaluation.share` 0 turns evaluation off. Set "
                "`evaluation.share=0.1`, or remove `every`."
            )


class RewardModelRecipe(PreferenceRows):
    """A scalar reward model, trained from preference pairs or from labels."""

    kind: Literal["reward-model"] = "reward-model"
    """Kind of run."""
    objective: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise`: the chosen of two responses scores higher (Bradley-Terry; helpfulness). `pointwise`: the score is the
    log-odds of a label (harmlessness)."""
    on: Literal["summary", "response"] | None = None
    """The text of a response that is scored: after `</think>`, or all of it. None: `summary` for pairs and `response`
    for labels, as in the paper."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """How a conversation is rendered: with the model's chat template, or as `Human: … Assistant: …`. `auto`: the chat
    template if there is one."""
    replay: ReplaySection | None = None
    """Earlier examples, for the continued training of a reward model."""
    batch_size: int = Field(default=32, gt=0)
    """Examples per step (256 in the paper)."""
    optimizer: RewardModelOptimizer = RewardModelOptimizer()
    """AdamW."""

    @property
    def rows(self) -> Rows:
        """Which examples are trained on."""
        return self.objective

    @property
    def scored_on(self) -> Literal["summary", "response"]:
        """`on`, resolved."""
        return self.on or ("summary" if self.objective == "pairwise" else "response")


def _data(key: str, data: PreferenceData, rows: Rows) -> Iterator[str]:
    if not data.path.strip():
        yield f"{key}.path` is empty. Write the path of a JSONL file."
    if data.format != "preferences":
        if rows == "pointwise":
            yield (
                f"{key}.format` is `{data.format}`, of which pairs are made, but `objective` is `pointwise`. Give "
                "labelled responses (`format: preferences`), or set `objective=pairwise`."
            )
        for field in ("hub", "held_out"):
            if getattr(data, field):
                yield f"{key}.{field}` is read with `format: preferences` alone. Remove it."
    elif data.pairs_per_question != PreferenceData.model_fields["pairs_per_question"].default:
        yield f"{key}.pairs_per_question` is read with `format: samples` or `run` alone. Remove it."
    if not data.hub and (data.split != "train" or data.config is not None):
        yield f"{key}.split` and `config` are of hub data sets. Remove them, or set {key}.hub=true`."
    if data.held_out is not None and data.held_out == (data.split if data.hub else data.path):
        yield (
            f"{key}.held_out` is `{data.held_out}`, the same examples that are trained on. Name another one, or remove "
            "it: then a disjoint share is kept apart."
        )
