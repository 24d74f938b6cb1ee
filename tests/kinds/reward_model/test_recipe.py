"""Recipes of reward models: what is refused, what is resolved, and the key that YAML takes for true."""

from __future__ import annotations

import pytest

from rethink.errors import RecipeError
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.recipe.identity import recipe_hash, resume_differences
from rethink.recipe.recipe_files import load_recipe, parse_recipe, recipe_to_yaml

TEXT = "name: small\nkind: reward-model\nepochs: 1\ndata: [{path: pairs.jsonl}]\n"


def load(*overrides: str, text: str = TEXT) -> RewardModelRecipe:
    recipe = parse_recipe(text, "The recipe `small`", overrides)
    assert isinstance(recipe, RewardModelRecipe)
    return recipe


def test_what_is_scored_follows_the_objective() -> None:
    assert load().scored_on == "summary"
    assert load("objective=pointwise").scored_on == "response"
    assert load("on=response").scored_on == "response"


def test_the_key_on_is_a_key() -> None:
    recipe = load(text=TEXT + "on: response\n")
    assert recipe.on == "response"
    assert parse_recipe(recipe_to_yaml(recipe), "again") == recipe


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["steps=3"], "Both `epochs` and `steps` are given"),
        (["epochs=null"], "Neither `epochs` nor `steps` is given"),
        (["epochs=null", "steps=3", "optimizer.warmup_steps=3"], "Use at most 2"),
        (["optimizer.final_rate=1", "optimizer.schedule=linear"], "the schedule falls"),
        (["optimizer.final_rate=1"], "the schedule is `constant` and does not use it"),
        (["data=[]"], "with at least 1"),
        (['data.0.path=""'], "`data.0.path` is empty"),
        (["data.0.format=samples", "objective=pointwise"], "of which pairs are made"),
        (["data.0.format=run", "data.0.hub=true"], "`data.0.hub` is read with `format: preferences` alone"),
        (["data.0.pairs_per_question=2"], "is read with `format: samples` or `run` alone"),
        (["data.0.split=test"], "are of hub data sets"),
        (["data.0.held_out=pairs.jsonl"], "the same examples that are trained on"),
        (["evaluation.share=0", "evaluation.every=3"], "turns evaluation off"),
        (["replay={path: a, share: 1}"], "replay.share"),
        (["objectve=pairwise"], "Did you mean `objective`"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(*overrides)
    assert said in str(error.value)


def test_what_may_change_on_resume() -> None:
    assert resume_differences(load(), load("epochs=2", "name=other", "evaluation.every=5", "checkpoint.every=3")) == []
    assert recipe_hash(load("epochs=2")) != recipe_hash(load()) == recipe_hash(load("checkpoint.every=3"))
    assert resume_differences(load(), load("unusable=drop")) == ['`unusable` was "error", the recipe now says "drop"']


def test_the_one_that_ships() -> None:
    recipe = load_recipe("reward-model")
    assert isinstance(recipe, RewardModelRecipe)
    assert (recipe.objective, recipe.scored_on) == ("pairwise", "summary")
