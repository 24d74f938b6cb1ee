"""Iterative GRPO: rounds follow each other, the reward model learns from the new policy's rollouts and some history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.iterative.recipe import as_pipeline
from rethink.kinds.pipeline.identity import stage_hashes
from rethink.kinds.pipeline.stages import ResolvedStage, pipeline_of, resolve
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.model.heads.value_head import read_info
from rethink.recipe.recipe_files import parse_recipe
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder
from tests.kinds.pipeline.test_kill import kill

RECIPE = """\
name: rounds
kind: iterative
threads: 1
rounds: 2
vars:
  tasks: [{kind: reasoning-gym, name: chain_sum, params: {min_terms: 2, max_terms: 2, max_digits: 1}}]
  prompt: {template: raw, instruction: "{question}"}
  optimizer: {learning_rate: 1.0e-3, micro_batch_tokens: 256}
  half: {name: accuracy, function: "FOLDER/half.py:half"}
policy:
  model: {path: MODEL, dtype: float32}
  prompt: ${vars.prompt}
  tasks: ${vars.tasks}
  steps: 2
  rollout: {prompts_per_batch: 6, group_size: 4, max_new_tokens: 6, kv_budget_gb: 0.1}
  reward: {parts: ["${vars.half}", {name: reward-model, weight: 0.5}]}
  optimizer: ${vars.optimizer}
  evaluation: {problems: 0}
  checkpoint: {every: 1}
reward_model:
  model: {dtype: float32}
  "on": response
  template: plain
  epochs: 1
  batch_size: 8
  optimizer: ${vars.optimizer}
  evaluation: {share: 0.2}
  checkpoint: {every: 1}
samples:
  prompt: ${vars.prompt}
  tasks: ${vars.tasks}
  problems: 12
  sampling: {per_problem: 4, max_new_tokens: 6, kv_budget_gb: 0.1}
  reward: {parts: ["${vars.half}"]}
  filters:
    {correct: null, format: null, language: null, truncated: false, tags: false, code: false, repetition: null,
     duplicate: null}
"""
REWARD = '''\
def half(problem, text):
    """Right or wrong by chance, half each."""
    return float(sum(map(ord, text)) % 2)
'''


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    (tmp_path / "half.py").write_text(REWARD)
    path = tmp_path / "rounds.yaml"
    path.write_text(RECIPE.replace("MODEL", str(tiny_folder("llama"))).replace("FOLDER", str(tmp_path)))
    return path


def stages(*overrides: str, text: str = RECIPE) -> dict[str, ResolvedStage]:
    found = resolve(pipeline_of(parse_recipe(text, "The recipe", overrides)))
    return {stage.name: stage for stage in found}


def test_rounds_are_stages() -> None:
    found = stages("rounds=3", "seed=5", "replay=0.2", "reward_model.seed=7")
    assert list(found) == [
        "iterative-samples", "iterative-reward-model-0", "iterative-policy-1", "iterative-reward-model-1",
        "iterative-policy-2", "iterative-reward-model-2", "iterative", "iterative-reward-model",
    ]  # fmt: skip
    policies = [stage.recipe for stage in found.values() if isinstance(stage.recipe, Recipe)]
    assert [policy.model.path for policy in policies] == [
        "MODEL", "${iterative-policy-1.model}", "${iterative-policy-2.model}",
    ]  # fmt: skip
    assert [policy.reward.parts[1].model for policy in policies] == [
        f"${{iterative-reward-model-{number}.model}}" for number in range(3)
    ]
    assert policies[0].seed == 5
    assert len({policy.seed for policy in policies}) == 3, "each round asks other problems"
    learned = [stage.recipe for stage in found.values() if isinstance(stage.recipe, RewardModelRecipe)]
    assert [model.model.path for model in learned[:3]] == [
        "MODEL", "${iterative-reward-model-0.model}", "${iterative-reward-model-1.model}",
    ]  # fmt: skip
    assert [model.data[0].path for model in learned] == [
        "${iterative-samples.samples}", "${iterative-policy-1.folder}", "${iterative-policy-2.folder}",
        "${iterative.folder}",
    ]  # fmt: skip
    assert [model.replay and (model.replay.path, model.replay.share) for model in learned] == [
        None, *((f"${{iterative-reward-model-{number}.pairs}}", 0.2) for number in range(3)),
    ]  # fmt: skip
    assert learned[0].seed == learned[1].seed == 7
    assert len({model.seed for model in learned}) == 3


def test_a_further_round_keeps_the_rounds_before() -> None:
    hashes = [stage_hashes(tuple(stages(f"rounds={rounds}").values())) for rounds in (2, 3)]
    assert set(hashes[0].values()) < set(hashes[1].values())


def test_a_reward_model_that_is_given_and_its_history() -> None:
    given = ["samples=null", "reward_model.model.path=FIRST", "rounds=1"]
    found = stages(*given)
    assert list(found) == ["iterative", "iterative-reward-model"]
    assert found["iterative"].recipe.reward.parts[1].model == "FIRST"  # type: ignore[attr-defined]
    learned = found["iterative-reward-model"].recipe
    assert isinstance(learned, RewardModelRecipe)
    assert (learned.model.path, learned.replay) == ("FIRST", None)
    learned = stages(*given, "history=OLD")["iterative-reward-model"].recipe
    assert isinstance(learned, RewardModelRecipe)
    assert learned.replay is not None
    assert (learned.replay.path, learned.replay.share) == ("OLD", 0.1)


def test_as_a_stage_of_a_pipeline() -> None:
    recipe = parse_recipe(RECIPE, "The recipe")
    values = as_pipeline(recipe).model_dump(mode="json")["stages"]["iterative"]["recipe"]  # type: ignore[arg-type]
    text = json.dumps(
        {
            "name": "whole", "kind": "pipeline", "vars": recipe.vars, "seed": 3,  # type: ignore[attr-defined]
            "stages": {
                "rounds": {"kind": "iterative", "recipe": values | {"seed": 4}},
                "last": {"kind": "sft", "recipe": {
                    "model": {"path": "${rounds.model}"}, "data": [{"path": "${rounds-reward-model.pairs}"}],
                    "epochs": 1,
                }},
            },
        }
    )  # fmt: skip
    found = stages(text=text)
    assert found["last"].inputs == ("rounds", "rounds-reward-model")
    assert found["rounds-policy-1"].recipe.seed == found["rounds-samples"].recipe.seed == 4, "the stage's own seed"
    assert found["last"].recipe.seed == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["policy.reward.parts=[{name: accuracy}]"], r"`policy.reward.parts` has 0.*one part `\{name: reward-model\}`"),
        (["policy.reward.parts=[{name: reward-model}, {name: b, builtin: reward-model}]"], "has 2"),
        (["policy.reward.parts=[{name: reward-model, model: x}]"], "name the first one as `reward_model.model.path`"),
        (["policy.reward=3"], "`policy.reward.parts` has 0"),
        (["reward_model.replay={path: x}"], "Write the share as `replay: 0.1`"),
        (["reward_model.data=3", "samples=null"], "Stage `iterative-reward-model-0`: `data` is 3"),
        (["samples=null"], "There is no reward model to start from"),
        (["samples.model={path: x}"], "`policy.model` names the policy"),
        (["history=x"], "the first reward model is trained here"),
        (["samples=null", "reward_model.model.path=x", "history=y", "replay=0"], "`replay` is 0"),
        (["rounds=0"], "`rounds` is 0"),
        (["replay=1"], "`replay` is 1"),
        (["policy.stps=1"], "Stage `iterative-policy-1`: `stps`"),
    ],
)
def test_refusals(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        stages(*overrides)


def test_dry_run_estimates_all_rounds(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--dry-run", "--json", "--out", str(tmp_path / "out")]) == 0
    planned = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert len(planned) == 6
    assert all(stage["flops"] > 0 and stage["memory_bytes"] > 0 for name, stage in planned.items() if "sam" not in name)
    # A round's rollouts: 2 batches of 6 problems, 2 pairs each at most.
    assert planned["iterative-reward-model"]["tokens"] == planned["iterative-reward-model-1"]["tokens"] > 0


@pytest.mark.slow
def test_check_examines_the_stages_that_sample(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(recipe), "--json"])
    assert list(json.loads(capsys.readouterr().out)["stages"]) == [
        "iterative-samples", "iterative-policy-1", "iterative",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(600)
def test_two_rounds_killed_and_resumed(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed in the first round and in the second, a run ends as one that was not; the rounds are Algorithm 1's."""
    base = tmp_path / "base"
    kill(recipe, base, ["0.45a", "0.8b"])
    assert main(["status", str(base / "whole"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"]
    assert main(["train", str(recipe), "--out", str(base / "whole"), "--resume", "--plain"]) == 0
    assert "0 stages run, 6 found done" in capsys.readouterr().out
    folder = PipelineFolder.open(base / "whole")
    runs = {record.name: RunFolder.open(folder.stage_path(record)) for record in folder.records().values()}
    first, second = (runs[f"iterative-reward-model{end}"] for end in ("-1", ""))
    for run in (first, second):
        summary = run.read_summary()
        assert summary is not None
        data = summary["data"]
        assert data["replayed"] == round((data["train"] - data["replayed"]) / 9) > 0
        assert summary["synthetic"]
    assert read_info(second.model_path).rules == ("right-over-wrong",)
    asked = [
        {rollout.problem.question for rollout in runs[name].read_rollouts(0) or []}
        for name in ("iterative-policy-1", "iterative")
    ]
    assert asked[0] != asked[1]
