"""What of a pipeline is checked before it runs, and what is left out because other stages make it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.check.stage_check import checkables
from rethink.cli.main import main
from rethink.errors import RecipeError
from rethink.recipe.recipe_files import load_recipe
from tests.kinds.pipeline.real_stages import write_recipe


def test_r1_stage_by_stage() -> None:
    found = {one.stage: one for one in checkables(load_recipe("r1"))}
    assert list(found) == [
        *("zero", "cold-start", "reasoning", "rejection", "all-scenarios"),
        *("distilled-samples", "distilled-rl", "distilled-rl-only"),
    ]
    assert [name for name, one in found.items() if one.sampled] == ["zero", "distilled-rl-only"]
    assert {one.recipe.model.path for one in found.values()} == {"embedded"}
    assert not found["zero"].left_out
    last = found["all-scenarios"]
    assert [part.name for part in last.recipe.reward.parts] == ["accuracy", "format", "language"]
    assert last.recipe.tasks[-1].reward == ("format",)
    assert last.left_out == (
        "sampling, since `${tuned.model}` is not made yet",
        "the reward part `preference`",
    )


def test_a_recipe_of_its_own() -> None:
    quickstart, cold_start = load_recipe("quickstart"), load_recipe("cold-start")
    (one,) = checkables(quickstart)
    assert (one.stage, one.recipe, one.sampled) == (None, quickstart, True)
    (one,) = checkables(cold_start)
    assert one.recipe == cold_start
    assert one.how.rollout.max_new_tokens == 64
    assert (one.how.rollout.group_size, one.how.estimate) == (4, None)
    assert not one.sampled
    for name in ("sft", "reward-model"):
        with pytest.raises(RecipeError, match="scores no completions"):
            checkables(load_recipe(name))


def test_tasks_that_only_another_stage_rewards(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    path = write_recipe(tmp_path, tiny_folder("llama"))
    words = [
        "stages.last.recipe.reward={parts: [{name: judged, builtin: reward-model, model: '${judge.model}'}]}",
    ]
    assert "last" not in {one.stage for one in checkables(load_recipe(path, words))}
    mixed = "{name: judged, builtin: reward-model, model: '${judge.model}'}, {name: accuracy}"
    words = [
        f"stages.last.recipe.reward={{parts: [{mixed}], answer: last-number}}",
        f"stages.last.recipe.tasks=[{{kind: jsonl, name: {tmp_path / 'problems.jsonl'}, reward: [judged]}}, "
        f"{{kind: jsonl, name: {tmp_path / 'rows.jsonl'}, reward: [accuracy]}}]",
    ]
    last = next(one for one in checkables(load_recipe(path, words)) if one.stage == "last")
    assert [Path(task.name).name for task in last.recipe.tasks] == ["rows.jsonl"]
    assert "tasks that other stages make, or alone reward" in last.left_out


def test_the_command_on_a_pipeline(
    tmp_path: Path, tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, tiny_folder("llama"))
    code = main(["check", str(path), "--prompts", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["stages"]) == ["zero", "drawn", "last"]
    for stage in found["stages"].values():
        assert stage["gold"]["full_marks"] == stage["gold"]["problems"] > 0
        assert stage["cheats"]["rows"]
    assert "signal" in found["stages"]["zero"]
    assert "signal" not in found["stages"]["last"]
    assert "is not made yet" in found["stages"]["last"]["left_out"][0]
    assert found["ok"] == (code == 0)
    bad = "vars.tasks.0.checker=no-such-checker"
    assert main(["check", str(path), "--prompts", "0", bad]) in (1, 2)
