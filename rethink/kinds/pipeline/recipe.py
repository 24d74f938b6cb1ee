"""A pipeline as a recipe: stages that use each other's outputs (`kind: pipeline`), and distillation (`kind: distill`).

A stage's recipe is that of its kind, written in place. Two things are put into its text before it is read:

    ${vars.NAME}        a value of `vars`: any value where it stands alone, text inside other text
    ${STAGE.OUTPUT}     the path of what another stage leaves, see `OUTPUTS`; this also is what orders the stages

`stages.py` does both, and makes plain stages of distillations and of `evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from rethink.errors import RecipeError
from rethink.recipe.schema import Section

StageKind = Literal["grpo", "sft", "samples", "reward-model", "eval", "distill"]

OUTPUTS: Mapping[str, Mapping[str, str]] = {
    "grpo": {"model": "model", "best": "best", "folder": "."},
    "sft": {"model": "model", "folder": "."},
    "samples": {"train": "train.jsonl", "samples": "samples.jsonl", "folder": "."},
    "reward-model": {"model": "model", "pairs": "pairs.jsonl", "folder": "."},
    "eval": {"folder": "."},
}
"""What a stage of a kind leaves for others: name in a reference, path in the stage's folder."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Stage(Section):
    """One stage."""

    kind: StageKind
    """What it does."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """A recipe of that kind without `name` and `kind`. `seed`, `threads` and `device` are the pipeline's where it has
    none of its own."""
    description: str = ""
    """One sentence for the report."""


class PipelineRecipe(Section):
    """Stages as a graph, run in order, each once."""

    FREE: ClassVar[tuple[str, ...]] = ("name", "description", "stages", "vars", "evaluation", "evaluated", "seed")
    """All of it: each stage has its own identity, see `rethink/kinds/pipeline/identity.py`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Short name; runs go to `runs/<name>` unless `--out` says otherwise."""
    kind: Literal["pipeline"] = "pipeline"
    """What is run."""
    description: str = ""
    """One or two sentences for the reader."""
    seed: int = Field(default=0, ge=0)
    """Seed of every stage that has none of its own."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads of every stage; None: the cores this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    vars: dict[str, Any] = Field(default_factory=dict)
    """Values that stages share, used as `${vars.NAME}`."""
    stages: dict[str, Stage] = Field(min_length=1)
    """By name; each may use outputs of others as `${NAME.OUTPUT}`, in whatever order they are written."""
    evaluation: dict[str, Any] | None = None
    """An `eval` recipe without `model`: every model that a stage trains, and those of `evaluated`, answer the same
    held-out problems. None: nothing is measured but what stages measure themselves."""
    evaluated: dict[str, str] = Field(default_factory=dict)
    """Further models to evaluate, by the name that the report gives them."""

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> PipelineRecipe:
        from rethink.kinds.pipeline.stages import resolve  # it imports this module

        resolve(self)
        return self


class DistillRecipe(Section):
    """Distillation: a teacher's curated samples, supervised fine-tuning of a student on their text, RL on top."""

    FREE: ClassVar[tuple[str, ...]] = (
        "name", "description", "vars", "teacher", "student", "samples", "data", "sft", "rl", "rl_only", "evaluation",
        "seed",
    )  # fmt: skip
    """All of it: each stage has its own identity."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Short name; runs go to `runs/<name>` unless `--out` says otherwise."""
    kind: Literal["distill"] = "distill"
    """What is run."""
    description: str = ""
    """One or two sentences for the reader."""
    seed: int = Field(default=0, ge=0)
    """Seed of every stage that has none of its own."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads of every stage; None: the cores this process may use."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    vars: dict[str, Any] = Field(default_factory=dict)
    """Values that the sections share, used as `${vars.NAME}`."""
    teacher: str | None = None
    """Model that answers: anything that `model.path` takes, or an output of a stage. None: `samples` names its own (an
    `endpoint`, a file as `source`, or a `model`), or `data` brings the samples."""
    student: str = "embedded"
    """Base model that learns. Only text goes over, so its tokenizer may be another."""
    samples: dict[str, Any] | None = None
    """A `samples` recipe without `model`: what the teacher is asked, and which answers are kept."""
    data: tuple[str, ...] = ()
    """Files of samples in place of `samples`, or beside them."""
    sft: dict[str, Any]
    """An `sft` recipe without `model` and `data`."""
    rl: dict[str, Any] | None = None
    """A `grpo` recipe without `model`: reinforcement learning on top of the distilled student. None: no RL."""
    rl_only: dict[str, Any] | None = None
    """A `grpo` recipe without `model`: the same student by RL alone, the paper's comparison (its Table 6). None: no
    such comparison."""
    evaluation: dict[str, Any] | None = None
    """See `evaluation` of a pipeline (there, and not here, where the distillation is a stage of one)."""

    @model_validator(mode="after")
    def _refuse_degenerate(self) -> DistillRecipe:
        if self.samples is None and not self.data:
            raise RecipeError(
                "A distillation needs something to learn from: write `samples:` (what the teacher is asked), or "
                "`data: [FILE.jsonl]`."
            )
        if self.samples is None and self.teacher is not None:
            raise RecipeError(
                "`teacher` is given, but no `samples`, so it would never be asked. Write `samples:`, or remove "
                "`teacher`."
            )
        named = [key for key in ("endpoint", "source", "model") if self.samples and key in self.samples]
        if self.samples is not None and self.teacher is None and not named:
            raise RecipeError(
                "Nobody answers: there is no `teacher`, and `samples` names none. Write `teacher: PATH`, or "
                "`samples: {endpoint: {model: NAME, url: http://127.0.0.1:8000/v1}}`."
            )
        other = next((key for key in named if key != "model"), None)
        if self.teacher is not None and other is not None:
            raise RecipeError(
                f"Both `teacher` and `samples.{other}` are given, and one of them answers. Remove one; for an endpoint "
                "write `teacher=null`."
            )
        return self

    def as_pipeline(self) -> PipelineRecipe:
        """The pipeline with this distillation as its only stage, and the student as it was for comparison."""
        body = self.model_dump(mode="json", exclude_unset=True)
        for field in ("name", "kind", "description", "seed", "threads", "device", "vars", "evaluation"):
            body.pop(field, None)
        return PipelineRecipe(
            name=self.name,
            description=self.description,
            seed=self.seed,
            threads=self.threads,
            device=self.device,
            vars=self.vars,
            stages={"distilled": Stage(kind="distill", recipe=body)},
            evaluation=self.evaluation,
            evaluated={"base": self.student} if self.evaluation is not None else {},
        )
