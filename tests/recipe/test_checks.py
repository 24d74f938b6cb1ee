"""Values that contradict each other or do nothing are refused, each with the fix; what only looks odd is not."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.checks import check_against_context
from rethink.recipe.recipe_files import parse_recipe
from rethink.recipe.schema import ModelShape, RewardPart, TaskSource

TEXT = """\
name: small
steps: 10
tasks:
  - {kind: reasoning-gym, name: chain_sum}
"""
SHAPE = (
    "hidden_size: 8, layers: 2, heads: 4, kv_heads: 2, head_dim: 2, intermediate_size: 16, vocab_size: 32, context: 64"
)


def load(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, "The recipe `small`", overrides)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["rollout.group_size=1"], ["`rollout.group_size` is 1", "Use 2 or more"]),
        (["algorithm.mini_batches=3"], ["`algorithm.mini_batches=2`", "`rollout.prompts_per_batch=9`"]),
        (["algorithm.mini_batches=16"], ["`algorithm.mini_batches=8`", "`rollout.prompts_per_batch=16`"]),
        (["rollout.top_p=0.9"], ["`rollout.top_p=0.9`", "`rollout.allow_truncated=true`"]),
        (["rollout.top_k=5"], ["`rollout.top_k=5`", "rollout.top_k=0"]),
        (["rollout.stop_strings=['']"], ["empty string"]),
        (["rollout.max_new_tokens=0"], ["at least 1 token"]),
        (["rollout.max_new_tokens={}"], ["it is empty", "0: "]),
        (["rollout.max_new_tokens={5: 10}"], ["its first step is 5", "0: "]),
        (["rollout.max_new_tokens={0: 0}"], ["limits 1 or more"]),
        (["rollout.max_new_tokens={0: 4, -1: 5}"], ["steps must be 0 or more"]),
        (["reward.parts.0.weight=0", "reward.parts.1.weight=0"], ["weight 0", "`reward.parts.0.weight=1`"]),
        (["reward.parts=[]"], ["there is none"]),
        (["reward.parts.1.name=accuracy"], ["names `accuracy` twice"]),
        (["reward.parts.1.name=acuracy"], ["Did you mean `accuracy`?", "reward.parts.1.function=module:function"]),
        (["reward.parts.1={name: mean, function: 'a:b'}"], ["`mean`", "are metrics"]),
        (["reward.parts.1={name: a/b, function: 'a:b'}"], ["`a/b`", "a name begins with"]),
        (["reward.parts.1={name: mine, function: 'a.b'}"], ["`a.b`", "`module:function`"]),
        (["algorithm.reference_every=4"], ["`algorithm.beta=0.001`", "no reference model"]),
        (["algorithm.fixed_denominator=4"], ["`algorithm.aggregation=fixed`"]),
        (["optimizer.warmup_steps=10"], ["never reach its peak", "at most 9"]),
        (
            ["optimizer.final_rate=1e-5", "optimizer.schedule=cosine"],
            ["1e-05", "above `optimizer.learning_rate` 1e-06"],
        ),
        (["optimizer.final_rate=1e-7"], ["`optimizer.schedule=cosine`"]),
        (["evaluation.problems=0", "evaluation.every=5"], ["turns evaluation off"]),
        (["evaluation.every_problems=5"], ["without `evaluation.every`"]),
        (["evaluation.every=2", "evaluation.every_problems=201"], ["201", "at most 200"]),
        (["prompt.instruction=Solve it"], ["does not hold `{question}`", "Solve this: {question}"]),
        (["prompt.system=Hi", "prompt.template=r1-zero"], ["`r1-zero`", "`prompt.template=chat`"]),
        (
            ["prompt.prefill=<think>", "prompt.examples=[{question: a, completion: b}]"],
            ["`prompt.examples.0.completion`", "`<think>`"],
        ),
        (["tasks.0.weight=0"], ["weight 0 at step 0"]),
        (["tasks.0.curriculum=[{step: 3, weight: 0}]"], ["weight 0 at step 3"]),
        (["tasks.0.curriculum=[{step: 5, weight: 1}, {step: 2, weight: 2}]"], ["[5, 2]", "must increase"]),
        (["tasks.0.curriculum=[{step: 5, weight: 1}, {step: 5, weight: 2}]"], ["[5, 5]", "must increase"]),
        (["tasks.0.curriculum=[{step: 5}]"], ["`tasks.0.curriculum.0` changes nothing"]),
        (["tasks.0.kind=python", "tasks.0.name=my_tasks"], ["`my_tasks`", "`module:function`"]),
        (["tasks.0.config=main"], ["`hub`"]),
        (["tasks.0.held_out=test"], ["`tasks.0.held_out`", "Remove it"]),
        (["tasks.0.kind=jsonl", "tasks.0.name=a", "tasks.0.held_out=a"], ["the same problems"]),
        (["tasks.0.kind=hub", "tasks.0.name=a/b", "tasks.0.held_out=train"], ["the same problems"]),
        (["tasks.0.checker=exact-number"], ["`tasks.0.checker` is `exact-number`", "`tasks.0.checker=task`"]),
        (["tasks.0.kind=jsonl", "tasks.0.checker=task"], ["no scorer", "`tasks.0.checker=exact-number`"]),
        (["tasks.0.kind=hub", "tasks.0.checker=task"], ["no scorer", "`math-verify`"]),
        (["tasks.0.kind=jsonl", "tasks.0.params={max_terms: 3}"], ["`tasks.0.params`", "`tasks.0.params={}`"]),
        (["tasks.0.question_key=problem"], ["`tasks.0.question_key`", "`tasks.0.question_key=question`"]),
        (["tasks.0.answer_format=boxed"], ["`jsonl`, `hub`, `python`", "`reasoning-gym` would not look"]),
        (["tasks.0.kind=jsonl", "tasks.0.split=test"], ["is read for `hub`;", "`tasks.0.split=train`"]),
        (["tasks.0.kind=jsonl", "tasks.0.curriculum=[{step: 3, params: {a: 1}}]"], ["read once", "a `weight`"]),
        (["model.path= "], ["`model.path`"]),
        (["rollout.max_new_tokens=64", f"model.shape={{{SHAPE}}}"], ["`rollout.max_new_tokens` is 64", "at most 63"]),
        (["tasks.0.curriculum=[{step: 3, weight: 1}, {step: 6, weight: 0}]"], ["weight 0 at step 6"]),
        ([f"model.shape={{{SHAPE}}}", "model.shape.kv_heads=3"], ["multiple of `kv_heads`"]),
        (
            [f"model.shape={{{SHAPE}}}", "model.shape.total_parameters=5", "model.shape.active_parameters=6"],
            ["`model.shape.active_parameters`"],
        ),
        (
            [
                f"model.shape={{{SHAPE}}}",
                "model.shape.mixture={experts: 4, experts_per_token: 5, expert_intermediate_size: 2, dense_layers: 3}",
            ],
            ["experts_per_token", "dense_layers"],
        ),
    ],
)
def test_degenerate_values(overrides: list[str], says: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load(*overrides)
    for words in says:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.group_size=2"],
        ["algorithm.mini_batches=4", "algorithm.epochs=3"],  # 12 steps a batch, 10 in all: the last is used in part
        ["rollout.top_p=0.9", "rollout.top_k=9", "rollout.allow_truncated=true"],
        ["rollout.max_new_tokens={0: 8, 500: 16}"],  # a trial of a long recipe ends before its later limits
        ["reward.parts.1.weight=-1"],
        ["reward.parts.1.weight=0"],
        ["reward.parts.1={name: mine, function: 'pkg.mod:fun'}"],
        ["algorithm.beta=0.001", "algorithm.reference_every=4"],
        ["algorithm.aggregation=fixed", "algorithm.fixed_denominator=4"],
        ["algorithm.clip_low=10", "algorithm.clip_high=10"],
        ["optimizer.warmup_steps=9"],
        ["optimizer.schedule=linear", "optimizer.final_rate=1e-6"],
        ["evaluation.every=2", "evaluation.every_problems=200"],
        ["evaluation.problems=0"],
        ["prompt.prefill= <think>\n", "prompt.examples=[{question: a, completion: '<think>b'}]"],
        ["tasks.0.weight=0", "tasks.0.curriculum=[{step: 0, weight: 1}]"],
        ["tasks.0.kind=hub", "tasks.0.name=a/b", "tasks.0.held_out=test", "tasks.0.config=main"],
        ["tasks.0.checker=task"],
        ["tasks.0.kind=python", "tasks.0.name=a:b", "tasks.0.checker=task", "tasks.0.params={n: 3}"],
        ["tasks.0.kind=jsonl", "tasks.0.checker=math-verify", "tasks.0.answer_format=boxed"],
        ["tasks.0.kind=jsonl", "tasks.0.curriculum=[{step: 3, weight: 2}]"],
        ["rollout.max_new_tokens=63", f"model.shape={{{SHAPE}}}"],
    ],
)
def test_what_is_allowed(overrides: list[str]) -> None:
    load(*overrides)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(RecipeError, match=r"group_size.*warmup_steps"):
        load("rollout.group_size=1", "optimizer.warmup_steps=99")


def test_a_recipe_made_in_python_is_checked_too() -> None:
    with pytest.raises(RecipeError, match="weight 0"):
        Recipe(
            name="x",
            steps=1,
            tasks=(TaskSource(kind="reasoning-gym", name="chain_sum"),),
            reward={"parts": (RewardPart(name="accuracy", weight=0),)},  # type: ignore[arg-type]
        )


def fits(recipe: Recipe, context: int) -> None:
    check_against_context(recipe.prompt, recipe.token_limits(), context)


@pytest.mark.parametrize(
    ("overrides", "context", "says"),
    [
        (["rollout.max_new_tokens=128"], 128, "`rollout.max_new_tokens` is 128.*at most 127"),
        (["rollout.max_new_tokens=64", "prompt.max_tokens=80"], 128, "prompt.max_tokens=80.*at most 48"),
        (["rollout.max_new_tokens=64", "prompt.max_tokens=200"], 128, "Lower `prompt.max_tokens`"),
        (["rollout.max_new_tokens={0: 8, 9: 500}"], 128, "`rollout.max_new_tokens.9` is 500"),
        (["rollout.max_new_tokens=8", "evaluation.max_new_tokens=300"], 128, "`evaluation.max_new_tokens` is 300"),
    ],
)
def test_limits_beyond_the_context(overrides: list[str], context: int, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        fits(load(*overrides), context)


def test_limits_within_the_context() -> None:
    fits(load("rollout.max_new_tokens=127"), 128)
    fits(load("rollout.max_new_tokens={0: 8, 10: 500}"), 128)  # the run ends before step 10
    fits(load("rollout.max_new_tokens=8", "evaluation.max_new_tokens=300", "evaluation.problems=0"), 128)


def test_shapes_reject_what_is_no_number() -> None:
    fields: dict[str, Any] = {"hidden_size": 0}
    with pytest.raises(ValueError, match="greater than 0"):
        ModelShape(**fields)
