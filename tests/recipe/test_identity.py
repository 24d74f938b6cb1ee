"""Which changes keep a run's identity."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.recipe.identity import differing, recipe_hash, resume_differences
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import parse_recipe, recipe_to_yaml

TEXT = """\
name: small
steps: 10
tasks:
  - {kind: reasoning-gym, name: chain_sum, params: {max_terms: 2}}
"""


PARTS = [{"name": name} for name in ("accuracy", "format", "language")]


def load(*overrides: str, text: str = TEXT) -> Recipe:
    return parse_recipe(text, "small", overrides)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "description=words",
        "checkpoint.every=3",
        "checkpoint.keep=5",
        "trackers=[wandb]",
        "model.trust_remote_code=true",
        "reward.workers=1",
        "optimizer.over_memory=true",
    ],
)
def test_what_changes_no_result(override: str) -> None:
    assert resume_differences(load(), load(override)) == []
    assert recipe_hash(load()) == recipe_hash(load(override))


@pytest.mark.parametrize("override", ["steps=20", "evaluation.every=3", "reward.seconds=9", "reward.memory_gb=2"])
def test_what_a_resumed_run_may_change_and_a_new_one_not(override: str) -> None:
    assert resume_differences(load(), load(override)) == []
    assert recipe_hash(load()) != recipe_hash(load(override))


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seed=1", "`seed` was 0, the recipe now says 1"),
        ("threads=2", "`threads` was null, the recipe now says 2"),
        ("optimizer.learning_rate=2e-5", "`optimizer.learning_rate` was 1e-06, the recipe now says 2e-05"),
        ("evaluation.problems=10", "`evaluation.problems` was 200, the recipe now says 10"),
        ("tasks.0.params.max_terms=3", "`tasks.0.params.max_terms` was 2, the recipe now says 3"),
        ("tasks.0.params.min_terms=2", "`tasks.0.params.min_terms` was not set, the recipe now says 2"),
        ("rollout.max_new_tokens={0: 256}", "`rollout.max_new_tokens` was 256, which the recipe no longer has"),
        ("prompt.examples=[{question: a, completion: b}]", "`prompt.examples` was [], which the recipe no longer has"),
    ],
)
def test_what_may_not(override: str, difference: str) -> None:
    assert difference in resume_differences(load(), load(override))
    assert recipe_hash(load()) != recipe_hash(load(override))


def test_the_hash_is_of_the_meaning_not_the_text() -> None:
    reordered = "\n".join(
        ["tasks: [{name: chain_sum, kind: reasoning-gym, params: {max_terms: 2}}]", *TEXT.split("\n")[:2]]
    )
    assert recipe_hash(load(text=reordered)) == recipe_hash(load())
    assert recipe_hash(load(text=recipe_to_yaml(load()))) == recipe_hash(load())
    assert recipe_hash(load("optimizer.max_grad_norm=1")) == recipe_hash(load())
    assert recipe_hash(load("tasks.0.params={a: 1, b: 2}")) == recipe_hash(load("tasks.0.params={b: 2, a: 1}"))
    assert len(recipe_hash(load())) == 64


def test_the_hash_is_of_what_differs_from_the_defaults() -> None:
    assert differing(load("reward.workers=1", "steps=20", "algorithm.beta=0.1", "threads=null")) == {
        "tasks": [{"kind": "reasoning-gym", "name": "chain_sum", "params": {"max_terms": 2}}],
        "steps": 20,
        "algorithm": {"beta": 0.1},
    }
    # A section whose default is not its class's: what differs is told from that default.
    samples = {"name": "s", "tasks": [{"kind": "reasoning-gym", "name": "chain_sum"}]}
    for reward, found in (
        ({"workers": 1}, {}),
        ({"answer": "boxed"}, {"answer": "boxed"}),
        ({"parts": PARTS[::-1]}, {"parts": PARTS[::-1]}),
    ):
        recipe = CurateRecipe.model_validate(samples | {"reward": {"parts": PARTS} | reward})
        assert differing(recipe).get("reward", {}) == found


def test_the_defaults_of_an_objective_count_whether_written_or_not() -> None:
    assert differing(load("algorithm.type=dapo"))["algorithm"] == {
        "type": "dapo",
        "aggregation": "token",
        "clip_high": 0.28,
    }
    written = load("algorithm.type=dapo", "algorithm.clip_high=0.28", "algorithm.aggregation=token")
    assert recipe_hash(load("algorithm.type=dapo")) == recipe_hash(written)


def test_the_version_of_the_kind_is_in_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before, kind = recipe_hash(load()), kind_named("grpo")
    monkeypatch.setattr("rethink.recipe.identity.kind_named", lambda name: replace(kind, version=kind.version + 1))
    assert recipe_hash(load()) != before


def test_the_order_of_reward_parts_and_tasks_counts() -> None:
    swapped = load("reward.parts=[{name: format}, {name: accuracy}]")
    assert len(resume_differences(load(), swapped)) == 2
