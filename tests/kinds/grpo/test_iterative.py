"""Iterative GRPO: rounds follow each other, the reward model learns from the new policy's samples and some history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rethink.errors import RecipeError
from rethink.kinds.grpo.iterative import iterative_grpo
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.model.heads.value_head import RewardModelInfo, build_reward_model, read_info, save_reward_model
from rethink.model.loading import load_checkpoint
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe, parse_recipe
from rethink.store.run_folder import RunFolder

REWARD_MODEL = """\
name: rm
kind: reward-model
epochs: 1
threads: 1
on: response
model: {dtype: float32}
data: [{path: replaced}]
batch_size: 8
evaluation: {share: 0.2}
"""


@pytest.fixture
def recipes(recipe_file: Path, tmp_path: Path) -> tuple[Recipe, RewardModelRecipe]:
    (tmp_path / "halves_for_test.py").write_text(
        "def half(problem, text):\n    return float(sum(map(ord, text)) % 2)\n"  # right or wrong by chance, half each
    )
    checkpoint = load_checkpoint(load_recipe(recipe_file).model.path)
    model = build_reward_model(checkpoint, "float32", "cpu")
    save_reward_model(tmp_path / "rm0", model, checkpoint, RewardModelInfo(on="response"))
    overrides = [
        "steps=4",
        "optimizer={}",
        "reward.parts=[{name: accuracy, function: 'halves_for_test:half'}, "
        f"{{name: reward-model, model: '{tmp_path / 'rm0'}'}}]",
        "rollout.group_size=4",
        "evaluation={problems: 0}",
    ]
    policy, scorer = load_recipe(recipe_file, overrides), parse_recipe(REWARD_MODEL, "test")
    assert isinstance(policy, Recipe)
    assert isinstance(scorer, RewardModelRecipe)
    return policy, scorer


@pytest.mark.slow
@pytest.mark.once
def test_two_rounds_with_a_tenth_of_history(
    recipes: tuple[Recipe, RewardModelRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    summary = iterative_grpo(*recipes, out, iterations=2, progress=make_progress("none"))
    assert summary["finished"]
    assert summary["reward_model"] == str(out / "round-2" / "reward-model" / "model")
    first, second = (entry["reward_model"] for entry in summary["rounds"])
    assert first["synthetic"] is True
    assert first["data"]["replayed"] == 0
    assert second["data"]["replayed"] == round((second["data"]["train"] - second["data"]["replayed"]) / 9) > 0
    kept = (out / "round-2" / "reward-model" / "pairs.jsonl").read_text().splitlines()
    assert all(json.loads(line)["rule"] == "right-over-wrong" for line in kept)
    assert read_info(out / "round-2" / "reward-model" / "model").rules == ("right-over-wrong",)
    # Each round asks problems of its own.
    asked = [
        {entry.problem.question for entry in RunFolder.open(out / f"round-{number}" / "policy").read_rollouts(0) or []}
        for number in (1, 2)
    ]
    assert asked[0] != asked[1]
    seeds = [
        yaml.safe_load(RunFolder.open(out / f"round-{number}" / part).recipe_yaml)["seed"]
        for part in ("policy", "reward-model")
        for number in (1, 2)
    ]
    assert seeds[0] != seeds[1]
    assert seeds[2] != seeds[3]
    # What is finished is not run again.
    weights = (out / "round-2" / "policy" / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("rethink.kinds.grpo.loop.one_step", lambda run: pytest.fail("a step was done again"))
    again = iterative_grpo(*recipes, out, iterations=2, resume=True, progress=make_progress("none"))
    assert again["finished"]
    assert (out / "round-2" / "policy" / "model" / "model.safetensors").read_bytes() == weights


def test_a_policy_without_a_reward_model_is_refused(recipes: tuple[Recipe, RewardModelRecipe], tmp_path: Path) -> None:
    policy, scorer = recipes
    values: dict[str, Any] = policy.model_dump()
    values["reward"]["parts"] = values["reward"]["parts"][:1]
    with pytest.raises(RecipeError, match="has 0; give it one part"):
        iterative_grpo(
            Recipe.model_validate(values), scorer, tmp_path / "out", iterations=1, progress=make_progress("none")
        )
