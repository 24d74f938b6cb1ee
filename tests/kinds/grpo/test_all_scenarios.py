"""RL for all scenarios: prompts of several sources, each with its own reward, a preference reward in the last steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.check.recipe_check import check
from rethink.errors import RecipeError, RunFolderError
from rethink.kinds.grpo.plan import checked
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.heads.value_head import RewardModelInfo, build_reward_model, save_reward_model
from rethink.model.loading import load_checkpoint
from rethink.recipe.identity import recipe_hash, resume_differences
from rethink.recipe.recipe_files import load_recipe
from rethink.store.run_folder import RunFolder
from tests.runs.compare import timeless

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def scenarios(recipe_file: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides: sums with rules, general prompts without answers with a reward model from step 4 on."""
    checkpoint = load_checkpoint(load_recipe(recipe_file).model.path)
    model = build_reward_model(checkpoint, "float32", "cpu")
    save_reward_model(tmp_path / "rm", model, checkpoint, RewardModelInfo(on="response"))
    prompts = tmp_path / "general.jsonl"
    prompts.write_text("".join(json.dumps({"question": f"Say {n}."}) + "\n" for n in range(40)))
    sums = "kind: reasoning-gym, name: chain_sum, reward: [accuracy, letters]"
    return (
        f"tasks=[{{{sums}}}, {{kind: jsonl, name: '{prompts}', reward: [helpful, letters]}}]",
        "reward.parts=[{name: accuracy}, {name: letters, function: 'rewards_for_tests:letters'}, "
        f"{{name: helpful, builtin: reward-model, model: '{tmp_path / 'rm'}', from_step: 4}}]",
        "optimizer.schedule=constant",
        "rollout.temperature=0.7",
        "rollout.prompts_per_batch=6",
        "algorithm.clip_low=10",
        "algorithm.clip_high=10",
    )


def test_a_run_has_each_reward_where_it_belongs_and_resumes_across_its_beginning(
    run: Run, scenarios: tuple[str, ...], tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(whole, *scenarios, "steps=8", "evaluation={problems: 4}")
    run(resumed, *scenarios, "steps=5", "evaluation={problems: 4}")  # the second batch is half used
    run(resumed, *scenarios, "steps=8", "evaluation={problems: 4}", resume=True)
    one, two = RunFolder.open(whole), RunFolder.open(resumed)

    def rows(folder: RunFolder) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in timeless(folder)]

    assert rows(one) == rows(two)
    tasks: set[str] = set()
    for batch in one.batches():
        first, second = one.read_rollouts(batch), two.read_rollouts(batch)
        assert first is not None
        assert second is not None
        assert [r.outcomes for r in first] == [r.outcomes for r in second]
        tasks |= {r.problem.task for r in first}
        for rollout in first:
            general, says = rollout.problem.task == "general", rollout.outcomes
            assert says["accuracy"].applied is not general
            assert says["letters"].applied
            assert says["helpful"].applied is (general and batch == 1)
            assert (says["helpful"].score is not None) is (general and batch == 1)
            scores = [outcome.score for outcome in says.values() if outcome.score is not None]
            assert rollout.reward == pytest.approx(sum(scores))
    assert tasks == {"chain_sum", "general"}
    helpful = [row.get("reward/helpful") for row in one.metrics()[1:]]
    assert helpful[:4] == [None] * 4
    assert all(0 < value < 1 for value in helpful[4:])
    # What does not apply is no abstention.
    assert {row["reward/abstained"] for row in one.metrics()[1:]} == {0.0}
    last = one.read_samples("step-000008")
    assert last is not None
    assert {row["accuracy"] is None for row in last if row["task"] == "general"} <= {True}


def test_a_reward_model_that_was_trained_again_is_found_on_resume(
    run: Run, scenarios: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(out, *scenarios, "steps=5", "evaluation={problems: 0}")
    summary = RunFolder.open(out).read_summary()
    assert summary is not None
    assert summary["reward_models"]["helpful"]["on"] == "response"
    checkpoint = load_checkpoint(str(tmp_path / "rm"))
    (tmp_path / "rm" / "reward_model.json").unlink()  # a language model again, which gets another head
    other = build_reward_model(checkpoint, "float32", "cpu", seed=1)
    save_reward_model(tmp_path / "rm", other, checkpoint, RewardModelInfo(on="response"))
    with pytest.raises(RunFolderError, match="/rm` changed since the run"):
        run(out, *scenarios, "steps=8", "evaluation={problems: 0}", resume=True)
    (tmp_path / "rm" / "value_head.safetensors").unlink()
    with pytest.raises(RecipeError, match="the part `helpful`"):
        run(tmp_path / "new", *scenarios, "steps=8")


@pytest.mark.slow
def test_a_check_copes_with_prompts_without_answers(recipe_file: Path, scenarios: tuple[str, ...]) -> None:
    recipe = load_recipe(recipe_file, scenarios)
    assert isinstance(recipe, Recipe)
    report = check(recipe, checked(recipe), prompts=2)
    said = {finding.defect: finding.message for finding in report.findings}
    assert not {"reward-refused", "gold-unreadable", "tasks-refused"} & set(said), said
    assert report.sections["gold"]["unreadable"] == 0
    assert report.sections["rewards"]["failures"] == {}


def test_fields_at_their_defaults_are_not_in_the_hash(recipe_file: Path, scenarios: tuple[str, ...]) -> None:
    old = load_recipe(recipe_file)
    assert (
        resume_differences(old, load_recipe(recipe_file, ["reward.parts.1.from_step=0", "tasks.0.reward=null"])) == []
    )
    later = load_recipe(recipe_file, ["reward.parts.1.from_step=4"])
    assert recipe_hash(later) != recipe_hash(old)
    assert resume_differences(old, later) == ["`reward.parts.1.from_step` was 0, the recipe now says 4"]
