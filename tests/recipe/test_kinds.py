"""Recipes of several kinds through one door."""

from __future__ import annotations

import dataclasses

import pytest

from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.recipe.identity import recipe_hash, resume_differences
from rethink.recipe.kind import Kind, kinds, of_kind
from rethink.recipe.recipe_files import parse_recipe, recipe_to_yaml

GRPO = "name: small\nsteps: 4\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n"
SFT = "name: small\nkind: sft\nepochs: 2\ndata: [{path: rows.jsonl}]\n"


def load(text: str, *overrides: str) -> Recipe | SFTRecipe:
    return parse_recipe(text, "The recipe `small`", overrides)


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_the_kind_decides_the_type() -> None:
    assert type(load(GRPO)) is Recipe
    assert type(load(GRPO, "kind=grpo")) is Recipe
    assert type(load(SFT)) is SFTRecipe
    assert type(load("name: a\nsteps: 1\ndata: [{path: b}]\n", "kind=sft")) is SFTRecipe


def test_a_record_names_what_exists() -> None:
    assert {"grpo", "sft", "samples", "reward-model", "eval", "pipeline", "distill"} <= set(kinds())
    for kind in kinds().values():
        assert kind.model.model_fields["kind"].default == kind.name
        for field in dataclasses.fields(Kind):
            value = getattr(kind, field.name)
            if isinstance(value, str) and value.startswith("rethink.") and ":" in value:
                assert kind.load(field.name) is not None


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        (GRPO, ["kind=sfft"], ["`kind` is 'sfft'", "`grpo`", "`sft`", "Write `kind: sft`"]),
        (GRPO, ["kind=3"], ["allowed is", "none at all means `grpo`"]),
        (GRPO, ["kind=sft"], ["`tasks` is not a key of a recipe of the kind `sft`", "`data` is missing"]),
        (SFT, ["optimiser.learning_rate=1"], ["Did you mean `optimizer`?"]),
        (SFT, ["optimizer.learning_rate=fast"], ["allowed is a number above 0", "`optimizer.learning_rate=5e-05`"]),
        (SFT, ["steps=3"], ["Both `epochs` and `steps`"]),
        (SFT, ["epochs=null"], ["Neither `epochs` nor `steps`"]),
        (SFT, ["epochs=null", "steps=3", "optimizer.warmup_steps=3"], ["Use at most 2"]),
        (SFT, ["optimizer.learning_rate=1e-6"], ["`optimizer.final_rate` 5e-06", "`optimizer.final_rate=1e-07`"]),
        (SFT, ["prompt.template=raw", "prompt.system=Be brief."], ["`prompt.template=chat`"]),
        (SFT, ["data=[{path: a, weight: 1}, {path: b}]"], ["`data.1` has no `weight`"]),
        (SFT, ["data.0.weight=0"], ["no documents"]),
        (SFT, ["data=[]"], ["at least 1 of them"]),
        (SFT, ["evaluation={share: 0, every: 3}"], ["`evaluation.share=0.05`"]),
    ],
)  # fmt: skip
def test_refusals(text: str, overrides: list[str], words: list[str]) -> None:
    message = refused(text, *overrides)
    for word in words:
        assert word in message


def test_what_may_change_is_said_by_each_kind() -> None:
    assert resume_differences(load(SFT), load(SFT, "epochs=3", "checkpoint.every=2")) == []
    assert recipe_hash(load(SFT)) == recipe_hash(load(SFT, "checkpoint.every=2", "trackers=[wandb]"))
    assert recipe_hash(load(SFT)) != recipe_hash(load(SFT, "epochs=3"))
    assert resume_differences(load(SFT), load(SFT, "batch_sequences=3")) == [
        "`batch_sequences` was 16, the recipe now says 3"
    ]
    assert resume_differences(load(GRPO), load(SFT)) == ['`kind` was "grpo", the recipe now says "sft"']


def test_the_way_back() -> None:
    recipe = load(SFT, "data.0.weight=2", "optimizer.schedule=constant", "model.path=some/model")
    assert parse_recipe(recipe_to_yaml(recipe), "x") == recipe


def test_a_command_says_which_kind_it_takes() -> None:
    assert of_kind(load(GRPO), Recipe, "`rethink check`").steps == 4
    with pytest.raises(RecipeError, match=r"`rethink check` takes recipes of the kind `grpo`.*`small`.*`sft`"):
        of_kind(load(SFT), Recipe, "`rethink check`")
