"""From a pipeline's recipe to its stages: references, variables, distillation, evaluation, and what is refused."""

from __future__ import annotations

import pytest

from rethink.errors import RecipeError
from rethink.kinds.distill.recipe import DistillRecipe, as_pipeline
from rethink.kinds.eval.recipe import EvalRecipe
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.pipeline.identity import stage_hash, stage_hashes
from rethink.kinds.pipeline.recipe import PipelineRecipe
from rethink.kinds.pipeline.stages import ResolvedStage, downstream, resolve, upstream
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.recipe.recipe_files import load_recipe, parse_recipe, recipe_to_yaml

PIPELINE = """\
name: small
kind: pipeline
seed: 5
threads: 1
vars:
  base: some/model
  tasks: [{kind: reasoning-gym, name: chain_sum}]
  both: "${vars.base}-and-more"
stages:
  last: {kind: grpo, recipe: {model: {path: "${tuned.model}"}, tasks: "${vars.tasks}", steps: 2}}
  tuned:
    kind: sft
    recipe: {model: {path: "${vars.base}"}, data: [{path: "${zero.folder}/x.jsonl"}], epochs: 1, seed: 9}
  zero:
    kind: grpo
    recipe:
      model: {path: "${vars.both}"}
      tasks: "${vars.tasks}"
      steps: 4
      rollout: {max_new_tokens: {0: 5, 2: 7}}
evaluation: {tasks: "${vars.tasks}", problems: 5}
evaluated: {base: "${vars.base}"}
"""

DISTILL = """\
name: pupil
kind: distill
student: some/student
data: [mine.jsonl]
vars: {tasks: [{kind: reasoning-gym, name: chain_sum}]}
sft: {epochs: 2, model: {dtype: float32}}
rl: {tasks: "${vars.tasks}", steps: 3}
rl_only: {tasks: "${vars.tasks}", steps: 6}
evaluation: {tasks: "${vars.tasks}"}
"""


def stages(text: str, *overrides: str) -> dict[str, ResolvedStage]:
    recipe = parse_recipe(text, "The recipe", overrides)
    if isinstance(recipe, DistillRecipe):
        recipe = as_pipeline(recipe)
    assert isinstance(recipe, PipelineRecipe)
    return {stage.name: stage for stage in resolve(recipe)}


def test_stages_are_ordered_by_what_they_use() -> None:
    found = stages(PIPELINE)
    assert list(found) == ["eval-base", "zero", "tuned", "last", "eval-last", "eval-tuned", "eval-zero"]
    assert found["last"].inputs == ("tuned",)
    assert found["eval-last"].evaluates == "last"
    assert downstream(found.values(), "tuned") == {"tuned", "last", "eval-tuned", "eval-last"}
    assert upstream(found.values(), "eval-tuned") == {"eval-tuned", "tuned", "zero"}


def test_variables_and_what_stages_inherit() -> None:
    found = stages(PIPELINE, "vars.base=other/model", "stages.zero.recipe.steps=8")
    zero, tuned, base = (found[name].recipe for name in ("zero", "tuned", "eval-base"))
    assert isinstance(zero, Recipe)
    assert isinstance(tuned, SFTRecipe)
    assert isinstance(base, EvalRecipe)
    assert (zero.name, zero.seed, zero.threads, zero.steps) == ("zero", 5, 1, 8)
    assert zero.model.path == "other/model-and-more"
    assert zero.tasks[0].name == "chain_sum"
    assert zero.rollout.max_new_tokens == {0: 5, 2: 7}
    assert tuned.seed == 9
    assert base.model.path == "other/model"


def test_the_way_back() -> None:
    for text in (PIPELINE, DISTILL):
        recipe = parse_recipe(text, "x")
        assert parse_recipe(recipe_to_yaml(recipe), "x") == recipe


def test_a_distillation_is_stages() -> None:
    found = stages(DISTILL)
    assert list(found) == [
        "eval-base", "distilled", "eval-distilled", "distilled-rl", "eval-distilled-rl", "distilled-rl-only",
        "eval-distilled-rl-only",
    ]  # fmt: skip
    student = found["distilled"].recipe
    assert isinstance(student, SFTRecipe)
    assert (student.model.path, student.model.dtype, student.data[0].path) == ("some/student", "float32", "mine.jsonl")
    assert found["distilled-rl"].inputs == ("distilled",)
    assert found["distilled"].distillation == {
        "base": "base",
        "rl only": "distilled-rl-only",
        "distilled": "distilled",
        "distilled + rl": "distilled-rl",
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stages.last.recipe.model.path=${tund.model}"], ["no stage `tund`", "Did you mean `${tuned.model}`?"]),
        (["stages.last.recipe.model.path=${tuned.modl}"], ["leaves no `modl`; it leaves `model`"]),
        (["stages.last.recipe.model.path=${last.model}"], ["uses its own output"]),
        (["stages.zero.recipe.model.path=${last.model}"], ["wait for each other", "`last` ← `tuned` ← `zero`"]),
        (["stages.zero.recipe.model.path=${vars.bas}"], ["`vars` has `base`", "Did you mean `${vars.base}`?"]),
        (["vars.base=${vars.both}"], ["`vars` is empty"]),
        (["stages.zero.recipe.stps=3"], ["Stage `zero`: `stps` is not a key", "Did you mean `steps`?"]),
        (["stages.zero.recipe.steps=0"], ["Stage `zero`: `steps` is 0; allowed is a whole number above 0"]),
        (["stages.zero.recipe.name=hero"], ["`recipe.name` is 'hero'"]),
        (["stages.zero.kind=grop"], ["Write, for example, `stages.zero.kind=grpo`"]),
        (["stages.vars={kind: sft}"], ["cannot be called `vars`"]),
        (["evaluated.zero=some/model"], ["`evaluated.zero` has the name of a stage"]),
        (["evaluation.model={path: x}"], ["every model is evaluated: remove it"]),
        (["evaluation=null"], ["there is no `evaluation`"]),
        (["evaluation.samples=3"], ["`temperature` 0 is greedy"]),
        (["stages.eval-zero={kind: sft, recipe: {data: [{path: x}], epochs: 1}}"], ["as the evaluation of `zero`"]),
        (["stages={}"], ["at least 1"]),
    ],
)  # fmt: skip
def test_refusals(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        stages(PIPELINE, *overrides)
    for word in words:
        assert word in str(caught.value)


def test_refusals_of_distillations() -> None:
    for override, words in [
        ("data=[]", "something to learn from"),
        ("teacher=some/teacher", "never be asked"),
        ("sft.epochs=0", "Stage `distilled`: `epochs` is 0"),
        ("rl.stps=1", "Stage `distilled-rl`: `stps`"),
    ]:
        with pytest.raises(RecipeError, match=words):
            stages(DISTILL, override)


def test_a_distillation_from_an_endpoint() -> None:
    asked = "samples={tasks: '${vars.tasks}', endpoint: {model: big, url: 'http://127.0.0.1:1/v1'}}"
    found = stages(DISTILL, asked)
    samples = found["distilled-samples"].recipe
    assert isinstance(samples, CurateRecipe)
    assert samples.endpoint.model == "big"
    assert not samples.samples_here
    moved = stages(DISTILL, asked.replace("127.0.0.1:1", "127.0.0.1:2"))["distilled-samples"]
    assert stage_hash(moved, {}) == stage_hash(found["distilled-samples"], {})
    other = stages(DISTILL, asked.replace("big", "small"))["distilled-samples"]
    assert stage_hash(other, {}) != stage_hash(moved, {})
    with pytest.raises(RecipeError, match=r"Both `teacher` and `samples.endpoint`"):
        stages(DISTILL, asked, "teacher=some/teacher")
    with pytest.raises(RecipeError, match="Nobody answers"):
        stages(DISTILL, "samples={tasks: '${vars.tasks}'}")


@pytest.mark.parametrize(
    ("overrides", "number"),
    [
        (["reward.workers=1", "checkpoint={every: 3}", "description=words"], 0),
        (["algorithm.epochs=1", "reward.answer=answer-tag"], 0),  # the defaults, written out
        (["reward.seconds=9"], 18),
        (["seed=7"], 18),
    ],
)
def test_a_field_that_changes_no_result_changes_no_stage(overrides: list[str], number: int) -> None:
    before, after = (
        stage_hashes(resolve(load_recipe("r1-smoke", [f"stages.zero.recipe.{value}" for value in values])))  # type: ignore[arg-type]
        for values in ([], overrides)
    )
    assert len(before) == 21
    changed = {name for name, value in before.items() if after[name] != value}
    assert len(changed) == number
    assert ("zero" in changed) == (number > 0)


def test_the_smoke_recipe_has_the_graph_of_r1() -> None:
    """But for one edge: a toy makes no pairs, so they are a file."""
    graphs = []
    for name in ("r1", "r1-smoke"):
        recipe = load_recipe(name)
        assert isinstance(recipe, PipelineRecipe)
        graphs.append({stage.name: (stage.kind, set(stage.inputs)) for stage in resolve(recipe)})
    whole, smoke = graphs
    assert whole["preference"][1] == {"tuned", "rejection"}
    assert smoke == whole | {"preference": ("reward-model", {"tuned"})}
    assert len(next(iter(resolve(load_recipe("r1")))).recipe.tasks) >= 3  # type: ignore[arg-type, union-attr]
