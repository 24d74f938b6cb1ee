"""The part `reward-model`: what it scores, that packing and order leave its scores alone, where it does not apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rethink.errors import RecipeError, RewardFailure
from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.decoder.packing import PackedGroup
from rethink.model.heads.value_head import RewardModelInfo, build_reward_model, save_reward_model
from rethink.model.loading import load_checkpoint
from rethink.model.text.reward_text import encode_prompt, encode_response, scored_text
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.model_reward import Scorer
from rethink.rewards.recorded import Keys, score_rows
from rethink.rewards.rubric import Limits, Rubric, build_rubric
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout

PROMPT = Prompt("…<think>", (1,), "<think>")


@pytest.fixture
def reward_model(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    checkpoint = load_checkpoint(str(tiny_folder("llama")))
    model = build_reward_model(checkpoint, "float32", "cpu")
    save_reward_model(tmp_path / "rm", model, checkpoint, RewardModelInfo(offset=0.25))
    return tmp_path / "rm"


def completion(text: str) -> Completion:
    nothing = np.zeros(1, np.float32)
    return Completion(np.zeros(1, np.int32), text, nothing, nothing, "stop")


def problem(number: int, task: str = "general") -> Problem:
    return Problem(f"{task}/{number}", task, f"Say something of {number}.", None)


@pytest.mark.parametrize(
    ("response", "summary"),
    [
        ("<think>a</think>\n b ", "b"),
        ("<think>a</think><answer> b </answer>\n", "b"),
        ("<think>a</think>so <answer>b</answer>", "so <answer>b</answer>"),
        ("<think>a</think>b</think>c", "c"),
        ("no thought", "no thought"),
        ("a</think>b", "b"),
        ("<think>never ends", None),
        ("<think>a</think>  ", None),
        ("", None),
    ],
)
def test_the_summary_is_what_follows_the_thought(response: str, summary: str | None) -> None:
    assert scored_text(response, "summary") == summary
    assert scored_text(response, "response") == response


def test_scores_are_the_models_own(reward_model: Path) -> None:
    scorer = Scorer(str(reward_model), None, "float32", "cpu")
    texts = ["x</think>one two", "y</think>three", "never ends", "z</think>one two"]
    items = [(problem(n), PROMPT, completion(text)) for n in range(2) for text in texts]
    found = scorer(items)
    checkpoint = load_checkpoint(str(reward_model))
    model, tokenizer = build_reward_model(checkpoint, "float32", "cpu"), checkpoint.tokenizer
    for (asked, _, said), outcome in zip(items, found, strict=True):
        shown = scored_text("<think>" + said.text, "summary")
        if shown is None:
            assert outcome == RewardOutcome(0.0)
            continue
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": asked.question}], "chat")
        with torch.no_grad():
            score = model.scores([PackedGroup(prompt, [encode_response(tokenizer, shown, "chat")])])[0]
        assert outcome.score == pytest.approx(float(torch.sigmoid(score - 0.25)), abs=1e-5)
    # The thought does not count, so the same summary has the same score; nor does the order, nor the company.
    assert found[0].score == pytest.approx(found[3].score, abs=1e-5)
    assert [o.score for o in scorer(items[::-1])][::-1] == pytest.approx([o.score for o in found], abs=1e-5)
    assert scorer(items) == found
    whole = Scorer(str(reward_model), "response", "float32", "cpu")(items)
    assert whole[0].score != pytest.approx(whole[3].score, abs=1e-6)
    assert whole[2].score > 0


def test_what_does_not_fit_is_a_failure(reward_model: Path) -> None:
    scorer = Scorer(str(reward_model), None, "float32", "cpu")
    outcome = scorer([(problem(0), PROMPT, completion("</think>" + "no " * 400))])
    assert outcome[0].score is None
    assert str(outcome[0].failure).startswith("invalid: ")


def rubric_of(tmp_path: Path, model: Path, *overrides: str) -> tuple[Rubric, Recipe]:
    (tmp_path / "general.jsonl").write_text('{"question": "Say something of 0."}\n{"question": "Say more."}\n' * 9)
    text = f"""\
name: all-scenarios
steps: 20
tasks:
  - {{kind: reasoning-gym, name: chain_sum, reward: [accuracy, format]}}
  - {{kind: jsonl, name: "{tmp_path}/general.jsonl", reward: [helpful, format]}}
rollout: {{temperature: 0.7, group_size: 2}}
reward:
  parts:
    - {{name: accuracy}}
    - {{name: format}}
    - {{name: helpful, builtin: reward-model, model: "{model}", weight: 2, from_step: 12, until_step: 18}}
algorithm: {{clip_low: 10, clip_high: 10, beta: 0.001, reference_every: 400}}
"""
    recipe = parse_recipe(text, "test", overrides)
    assert isinstance(recipe, Recipe)
    mix = task_mix(recipe)
    return build_rubric(recipe.reward, mix.judges(), mix.rewarded()), recipe


def test_each_source_has_its_own_rewards_at_its_own_steps(tmp_path: Path, reward_model: Path) -> None:
    rubric, recipe = rubric_of(tmp_path, reward_model)
    mix = task_mix(recipe)
    assert mix.names == ["chain_sum", "general"]
    sums = next(p for p in mix.train_batch(0, 40, 0) if p.task == "chain_sum")
    texts = [completion(f"so</think>\n<answer>{sums.answer}</answer>"), completion("x</think>\n<answer>no</answer>")]

    def results(step: int | None, **options: bool) -> list[list[tuple[dict[str, RewardOutcome], float | None]]]:
        scoring = rubric.scoring([sums, problem(0)], [PROMPT] * 2, 2, step=step, **options)
        return scoring.results([texts, texts])

    missing = RewardOutcome(None, applied=False)
    for step in (12, 17, None):
        (right, reward), _ = results(step)[0]
        assert right == {"accuracy": RewardOutcome(1.0), "format": RewardOutcome(1.0), "helpful": missing}
        assert reward == 2
        for outcomes, total in results(step)[1]:
            assert outcomes["accuracy"] == missing
            assert 0 < outcomes["helpful"].score < 1
            assert total == pytest.approx(1 + 2 * outcomes["helpful"].score)
    for step in (0, 11, 18):
        assert [outcomes["helpful"] for outcomes, _ in results(step)[1]] == [missing] * 2
        assert results(step)[1][0][1] == 1
    assert results(12, models=False)[1][0][0]["helpful"] == missing
    rubric.close()


def test_failures_count_among_what_applies(tmp_path: Path, reward_model: Path) -> None:
    """One general prompt of ten, whose part always fails, stops the run: a tenth of the batch would hide it."""
    rubric, _ = rubric_of(tmp_path, reward_model)
    broken, fine = RewardOutcome(None, "exception: x"), RewardOutcome(1.0)
    away = RewardOutcome(None, applied=False)
    said = [{"accuracy": away, "format": fine, "helpful": away} for _ in range(10)]
    said[0]["helpful"] = broken
    rollouts = [Rollout(problem(n), PROMPT, completion("x"), outcomes, 1.0) for n, outcomes in enumerate(said)]
    with pytest.raises(RewardFailure, match="`helpful` failed on 1 of 1"):
        rubric.check_failures(rollouts)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("tasks.1.reward=[helpfull]",), "Did you mean `helpful`"),
        (("tasks.1.reward=[format]",), "No source has the reward part `helpful`"),
        (("tasks.1.reward=[helpful]",), "At step 0 no reward part with a weight applies to `tasks.1`"),
        (("reward.parts.2.from_step=20",), "the run has 20 steps"),
        (("reward.parts.2.until_step=12",), "`until_step` must be above"),
        (("reward.parts.2.model=null",), "model` is missing"),
        (("reward.parts.1.on=summary",), "read by the part `reward-model` alone"),
        (("reward.parts.2.weight=0", "reward.parts.1.weight=0"), "No reward part with a weight applies to `tasks.1`"),
        (("reward.parts.2.model=/nowhere",), "there is no reward model `/nowhere`"),
        (("reward.parts.2.params={onn: summary}",), "did you mean `on`"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, reward_model: Path, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        rubric_of(tmp_path, reward_model, *overrides)


def test_a_source_may_begin_with_its_reward(tmp_path: Path, reward_model: Path) -> None:
    overrides = ("tasks.1.reward=[helpful]", "tasks.1.weight=0", "tasks.1.curriculum=[{step: 12, weight: 1}]")
    rubric, _ = rubric_of(tmp_path, reward_model, *overrides, "reward.parts.2.until_step=null")
    rubric.close()


def test_rethink_score_takes_it(reward_model: Path) -> None:
    rows = [{"question": "Why?", "gold": None, "completion": "<think>a</think>because"}]
    options = {"reward-model": {"model": str(reward_model)}}
    scored = list(score_rows(rows, ["reward-model"], Keys(), options, Limits()))
    assert 0 < scored[0].score < 1
