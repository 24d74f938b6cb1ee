"""Distillation as a recipe (`kind: distill`): a teacher's samples, fine-tuning of a student on their text, RL on top.

It is a short form of a pipeline. As a stage of a pipeline it expands to several stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from rethink.kinds.pipeline.graph import Parts, Stage
from rethink.kinds.pipeline.recipe import PipelineRecipe, body_of, of_one_stage
from rethink.recipe.base import AnyRecipe


class DistillRecipe(AnyRecipe):
    """Distillation: a teacher's curated samples, supervised fine-tuning of a student on their text, RL on top."""

    kind: Literal["distill"] = "distill"
    """Kind of run."""
    vars: dict[str, Any] = Field(default_factory=dict)
    """Values that the sections share, used as `${vars.NAME}`."""
    teacher: str | None = None
    """The teacher: any value of `model.path`, or an output of a stage. None: `samples` names its own source (an
    `endpoint`, a file as `source`, or a `model`), or `data` has the samples."""
    student: str = "embedded"
    """Initial model of the student. Only text is transferred, so its tokenizer may differ."""
    samples: dict[str, Any] | None = None
    """A `samples` recipe without `model`: the problems for the teacher, and the filters for its answers."""
    data: tuple[str, ...] = ()
    """Files of samples, instead of `samples` or in addition."""
    sft: dict[str, Any]
    """An `sft` recipe without `model` and `data`."""
    rl: dict[str, Any] | None = None
    """A `grpo` recipe without `model`: reinforcement learning on top of the distilled student. None: no RL."""
    rl_only: dict[str, Any] | None = None
    """A `grpo` recipe without `model`: the same student by RL alone, the paper's comparison (its Table 6). None: no
    comparison."""
    evaluation: dict[str, Any] | None = None
    """As `evaluation` of a pipeline. If the distillation is a stage of a pipeline, set it there instead."""

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a distillation."""
        yield from super().contradictions()
        if self.samples is None and not self.data:
            yield (
                "A distillation needs something to learn from: write `samples:` (what the teacher is asked), or "
                "`data: [FILE.jsonl]`."
            )
        if self.samples is None and self.teacher is not None:
            yield (
                "`teacher` is given, but no `samples`, so it would never be asked. Write `samples:`, or remove "
                "`teacher`."
            )
        named = [key for key in ("endpoint", "source", "model") if self.samples and key in self.samples]
        if self.samples is not None and self.teacher is None and not named:
            yield (
                "Nobody answers: there is no `teacher`, and `samples` names none. Write `teacher: PATH`, or "
                "`samples: {endpoint: {model: NAME, url: http://127.0.0.1:8000/v1}}`."
            )
        other = next((key for key in named if key != "model"), None)
        if self.teacher is not None and other is not None:
            yield (
                f"Both `teacher` and `samples.{other}` are given, and one of them answers. Remove one; for an endpoint "
                "write `teacher=null`."
            )


def as_pipeline(recipe: DistillRecipe) -> PipelineRecipe:
    """The pipeline with this distillation as its only stage, and the student as it was for comparison."""
    return of_one_stage(recipe, "distilled", recipe.student)


def parts(name: str, stage: Stage) -> Parts:
    """The teacher's samples, the student (under the stage's own name), RL on top of it, and RL alone.

    Raises:
        RecipeError: the stage's recipe is refused.
    """
    body = body_of(DistillRecipe, name, stage)
    found: dict[str, Stage] = {}
    data = [{"path": path} for path in body.data]
    if body.samples is not None:
        samples = dict(body.samples)
        if body.teacher is not None:
            samples["model"] = {**samples.get("model", {}), "path": body.teacher}
        found[f"{name}-samples"] = Stage(kind="samples", recipe=samples, description="The teacher's answers.")
        data.append({"path": f"${{{name}-samples.train}}"})
    student = {**body.sft.get("model", {}), "path": body.student}
    found[name] = Stage(
        kind="sft", recipe={**body.sft, "model": student, "data": data}, description=stage.description
    )  # fmt: skip
    for suffix, section, path in (("rl", body.rl, f"${{{name}.model}}"), ("rl-only", body.rl_only, body.student)):
        if section is not None:
            model = {**section.get("model", {}), "path": path}
            found[f"{name}-{suffix}"] = Stage(kind="grpo", recipe={**section, "model": model})
    rows = {"rl only": f"{name}-rl-only", "distilled": name, "distilled + rl": f"{name}-rl"}
    return Parts(found, body.student, rows)
