"""What is refused in a recipe that asks and trains nothing, and that the message names what it has."""

from __future__ import annotations

import pytest

from rethink.errors import RecipeError
from rethink.kinds.eval.recipe import EvalRecipe
from rethink.recipe.recipe_files import parse_recipe
from rethink.recipe.schema import CurriculumStage, TaskSource
from rethink.tasks.mix import build_task_mix

TEXTS = {
    kind: f"name: t\nkind: {kind}\ntasks:\n  - {{kind: reasoning-gym, name: chain_sum}}\n"
    for kind in ("eval", "samples")
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize(("field", "value"), [("from_step", 3), ("until_step", 5)])
def test_steps_of_rewards_are_of_training(kind: str, field: str, value: int) -> None:
    with pytest.raises(RecipeError, match=rf"`reward.parts.1.{field}` counts steps of training") as refused:
        parse_recipe(TEXTS[kind], "t", [f"reward.parts.1.{field}={value}"])
    assert "the run has" not in str(refused.value)
    assert "At step" not in str(refused.value)


@pytest.mark.parametrize(("kind", "key"), [("eval", "max_new_tokens"), ("samples", "sampling.max_new_tokens")])
def test_limits_go_by_the_key_that_the_recipe_has(kind: str, key: str) -> None:
    sizes = ("hidden_size", "layers", "heads", "kv_heads", "head_dim", "intermediate_size", "vocab_size")
    shape = f"{{{', '.join(f'{size}: 8' for size in sizes)}, context: 40}}"
    with pytest.raises(RecipeError, match=rf"`{key}` is 64, but .* Set it to at most 39") as refused:
        parse_recipe(TEXTS[kind], "t", [f"{key}=64", f"model.shape={shape}"])
    assert "rollout" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("samples=2", "`temperature` 0 is greedy"),
        ("stop_strings=['']", "`stop_strings` holds an empty string"),
        ("prompt.instruction=Solve it.", "would never see the problem"),
        ("reward.parts.0.name=acuracy", "Did you mean `accuracy`"),
        ("tasks.0.reward=[math]", "names `math`, which is no part"),
    ],
)
def test_the_rest_is_checked_as_in_training(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse_recipe(TEXTS["eval"], "t", [override])


def test_a_curriculum_counts_at_its_end() -> None:
    recipe = parse_recipe(TEXTS["eval"], "t")
    assert isinstance(recipe, EvalRecipe)
    late = TaskSource(
        kind="reasoning-gym", name="leg_counting", weight=0, curriculum=(CurriculumStage(step=50, weight=1),)
    )
    early = recipe.tasks[0].model_copy(update={"curriculum": (CurriculumStage(step=50, weight=0),)})
    mix = build_task_mix((early, late), recipe.reward, recipe.seed)
    assert {problem.task for problem in mix.held_out(5)} == {"leg_counting"}
    halfway = build_task_mix((early, late), recipe.reward, recipe.seed, steps=20)
    assert {problem.task for problem in halfway.held_out(5)} == {"chain_sum"}
