"""Reward models: learned on separable preferences, resumed bit for bit, continued with a replay, used as they lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rethink.errors import ModelError, NumericsError, RunFolderError, TaskError, UsageError
from rethink.kinds.reward_model.data import step_examples
from rethink.kinds.reward_model.examples import Example
from rethink.kinds.reward_model.loop import held_out_facts, score_examples
from rethink.kinds.reward_model.run import load_start, read_data, train_reward_model
from rethink.kinds.reward_model.update import Judged, accumulate_gradients, lanes_of
from rethink.model.decoder.packing import PackedGroup
from rethink.model.heads.value_head import build_reward_model, load_reward_checkpoint, read_info
from rethink.model.loading import load_checkpoint
from rethink.observe.progress import Silent, make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.optimizer import MasterAdamW
from rethink.store.run_folder import RunFolder
from rethink.tasks.preferences import Preference
from tests.paths import ROOT
from tests.runs.compare import timeless

from .examples import RECIPE, labelled, pairs, write_rows

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    data = write_rows(tmp_path / "pairs.jsonl", pairs())
    path = tmp_path / "rm.yaml"
    path.write_text(RECIPE.format(model=tiny_folder("llama"), data=data))
    return path


@pytest.fixture
def train(recipe_file: Path) -> Train:
    def go(out: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
        recipe = load_recipe(recipe_file, overrides)
        return train_reward_model(recipe, out, resume=resume, progress=make_progress("none"))

    return go


def test_it_learns_what_tells_the_responses_apart(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = train(out)
    before, after = summary["before"], summary["after"]
    assert before["accuracy"] < 0.8
    assert after["accuracy"] > 0.9
    assert after["loss"] < 0.4 < before["loss"] + 0.4
    assert after["margin_mean"] > 1
    assert before["margin_median"] < after["margin_median"]
    assert sum(entry["n"] for entry in after["reliability"]) == after["n"] == summary["data"]["held_out"]
    assert 0 <= after["ece"] <= 0.5
    assert summary["synthetic"] is False
    folder = RunFolder.open(out)
    rows = folder.metrics()
    assert [row["step"] for row in rows] == list(range(summary["steps"] + 1))
    assert {row["step"] for row in rows if "eval/accuracy" in row} >= {0, 4, summary["steps"]}
    held = folder.read_samples(f"step-{summary['steps']:06d}")
    assert held is not None
    assert len(held) == after["n"]
    # No prompt is on both sides, and what was trained on is kept.
    trained = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(trained) == summary["data"]["train"]
    assert not {row["prompt"][0]["content"] for row in trained} & {row["prompt"].removeprefix("user: ") for row in held}
    # The folder scores as the run did.
    checkpoint, info = load_reward_checkpoint(str(out / "model"))
    assert (info.objective, info.on, info.template, info.synthetic) == ("pairwise", "summary", "chat", False)
    recipe = load_recipe(tmp_path / "rm.yaml")
    judged = score_examples(
        build_reward_model(checkpoint, "float32", "cpu"), read_data(recipe, checkpoint).held_out, 999
    )
    assert [entry.scores for entry in judged] == [pytest.approx(row["scores"], abs=1e-4) for row in held]
    assert info.offset == pytest.approx(held_out_facts(judged)["score_mean"], abs=1e-4)


def test_the_median_lead_and_scores_that_are_no_numbers() -> None:
    def judged(*margins: float) -> list[Judged]:
        preference = Preference(({"role": "user", "content": "q"},), ("a", "b"))
        example = Example(preference, PackedGroup([1], [[2], [3]]), 0)
        return [Judged(example, (margin, 0.0)) for margin in margins]

    assert held_out_facts(judged(4.0, -1.0, 2.0, 0.5))["margin_median"] == 1.25
    assert held_out_facts(judged(4.0, -1.0, 2.0))["margin_median"] == 2.0
    with pytest.raises(NumericsError, match="1 of 2 held-out examples are not finite"):
        held_out_facts(judged(1.0, float("nan")))


def test_labels_are_learned_too(train: Train, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "labels.jsonl", labelled())
    overrides = ("objective=pointwise", f"data.0.path={data}", "epochs=3", "evaluation.every=null")
    summary = train(tmp_path / "out", *overrides)
    assert summary["on"] == "response"
    assert summary["after"]["accuracy"] > 0.9
    assert read_info(tmp_path / "out" / "model").offset == 0.0
    assert summary["data"]["share_good"] == pytest.approx(0.5, abs=0.1)


def test_packed_equals_single_and_gradients_do_not_depend_on_the_cut(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    checkpoint = load_start(recipe)
    data = read_data(recipe, checkpoint)
    model = build_reward_model(checkpoint, "float32", "cpu")
    group = data.train[0].group
    other = data.train[1].group
    together = model.scores([group, other])
    alone = [model.scores([PackedGroup(g.prompt_ids, [c])])[0] for g in (group, other) for c in g.completions]
    # One row with nothing shared: prompt and response as a prompt, and an empty response.
    flat = [model.scores([PackedGroup([*g.prompt_ids, *c], [[]])])[0] for g in (group, other) for c in g.completions]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)
    assert torch.allclose(together, torch.stack(flat), atol=1e-5)
    found = []
    for limit in (10, 10_000):
        optimizer = MasterAdamW(model, recipe.optimizer)
        loss = accumulate_gradients(recipe, model, None, *lanes_of(data.train[:6], 1), 0, limit).loss
        found.append((loss, {name: g.clone() for name, g in optimizer.gradients().items()}))
        for _, weight in model.named_parameters():  # hooks of the first optimizer must not collect for the second
            weight._post_accumulate_grad_hooks.clear()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-5), name
    assert float(found[0][1]["embedding"].abs().max()) > 0  # the whole decoder learns
    assert float(found[0][1]["layers.0.qkv"].abs().max()) > 0


def test_gradients_are_those_of_finite_differences(recipe_file: Path) -> None:
    from rethink.algorithms.preference import bradley_terry_loss
    from rethink.model.decoder.decoder import Decoder
    from rethink.model.heads.value_head import RewardModel, fresh_head

    recipe = load_recipe(recipe_file)
    checkpoint = load_start(recipe)
    assert checkpoint.config is not None
    decoder = Decoder(checkpoint.config, checkpoint.tensors, torch.float64)
    model = RewardModel(decoder, *fresh_head(checkpoint.config.hidden_size, 0))
    group = read_data(recipe, checkpoint).train[0].group

    def loss() -> torch.Tensor:
        scores = model.scores([group])
        return bradley_terry_loss(scores[0], scores[1])

    weights = dict(model.named_parameters())
    made = torch.autograd.grad(loss(), list(weights.values()), allow_unused=True)
    gradients = dict(zip(weights, made, strict=True))
    places = {"score.weight": (0, 3), "layers.1.down": (2, 5), "layers.0.qkv": (1, 1), "final_norm": (4,)}
    for name, place in places.items():
        weight, step = weights[name], 1e-6
        with torch.no_grad():
            weight[place] += step
            above = loss()
            weight[place] -= 2 * step
            below = loss()
            weight[place] += step
        slope = float(above - below) / (2 * step)
        assert float(gradients[name][place]) == pytest.approx(slope, rel=1e-4, abs=1e-9), name


def test_every_epoch_visits_each_example_once(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["epochs=2"])
    data = read_data(recipe, load_start(recipe))
    steps = range(-(-2 * len(data.train) // 8))
    visited = [id(example) for step in steps for example in step_examples(recipe, data, step)]
    assert len(visited) == 2 * len(data.train)
    assert len(set(visited[: len(data.train)])) == len(data.train)
    assert visited[: len(data.train)] != visited[len(data.train) :]


DIE = """
import os, signal, sys
from pathlib import Path
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.kinds.reward_model.run import train_reward_model
at, calls = int(sys.argv[3]), 0
def watched(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
for name in ("fsync", "replace", "rename"):
    setattr(os, name, watched(getattr(os, name)))
train_reward_model(load_recipe(sys.argv[1]), Path(sys.argv[2]), resume=True, progress=make_progress("none"))
"""


def test_killed_and_resumed_is_bit_identical(
    train: Train, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "rename"):
            patch.setattr(os, name, counted(getattr(os, name)))
        train(whole)
    command = [sys.executable, "-c", DIE, str(recipe_file), str(killed), str(calls * 2 // 3)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = [row["step"] for row in RunFolder.open(killed).metrics()]
    assert 3 <= max(done) < RunFolder.open(whole).metrics()[-1]["step"]
    train(killed, resume=True)
    one, two = RunFolder.open(whole), RunFolder.open(killed)
    assert timeless(one) == timeless(two)
    for name in ("model.safetensors", "value_head.safetensors", "reward_model.json"):
        assert (whole / "model" / name).read_bytes() == (killed / "model" / name).read_bytes(), name


def test_ctrl_c_finishes_the_step_and_resume_goes_on(recipe_file: Path, train: Train, tmp_path: Path) -> None:
    class Interrupts(Silent):
        def step(self, row: Any) -> None:
            if row["step"] == 2:
                signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    short = ("epochs=1", "evaluation.every=null")
    stopped = train_reward_model(load_recipe(recipe_file, short), out, progress=Interrupts())
    assert (stopped["finished"], stopped["steps"]) == (False, 2)
    assert not (out / "model").exists()
    assert train(out, *short, resume=True)["finished"]
    train(tmp_path / "whole", *short)
    assert timeless(RunFolder.open(out)) == timeless(RunFolder.open(tmp_path / "whole"))


def test_changed_data_is_found_on_resume(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(out, "epochs=null", "steps=2", "evaluation.every=null")
    write_rows(tmp_path / "pairs.jsonl", pairs(seed=1))
    with pytest.raises(RunFolderError, match=r"pairs\.jsonl`, the examples of `data` changed since the run"):
        train(out, "epochs=null", "steps=4", "evaluation.every=null", resume=True)


def test_trained_on_with_a_tenth_of_history(train: Train, recipe_file: Path, tmp_path: Path) -> None:
    """Algorithm 1 of DeepSeekMath: the earlier model goes on with new pairs and earlier ones."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, "evaluation.every=null")
    rows = [{**row, "prompt": f"New {i}?"} for i, row in enumerate(pairs(90, seed=5))]
    new = write_rows(tmp_path / "new.jsonl", rows)
    overrides = (
        "epochs=1",
        f"model.path={first / 'model'}",
        f"data.0.path={new}",
        "replay={path: %s, share: 0.1}" % (first / "pairs.jsonl"),
    )
    summary = train(second, *overrides)
    facts = summary["data"]
    assert facts["replayed"] == round((facts["train"] - facts["replayed"]) / 9)
    assert summary["before"]["accuracy"] > 0.8  # it began with the earlier head
    kept = [json.loads(line)["prompt"][0]["content"] for line in (second / "pairs.jsonl").read_text().splitlines()]
    assert sum(prompt.startswith("Question") for prompt in kept) == facts["replayed"]
    with pytest.raises(UsageError, match="objective: pairwise"):
        train(tmp_path / "third", *overrides[:2], "replay=null", "objective=pointwise", "on=summary")


def test_unusable_examples_are_refused_or_counted(train: Train, tmp_path: Path) -> None:
    rows = [
        *pairs(30),
        {"prompt": "Equal?", "chosen": "a", "rejected": "a"},
        {"prompt": "Equal when shown?", "chosen": "<think>x</think> a", "rejected": "<think>y</think>\na"},
        {"prompt": "Tie?", "chosen": "a", "rejected": "b", "score_chosen": 3, "score_rejected": 3.0},
        {"prompt": "Reversed?", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 3.0},
        {"prompt": "Empty?", "chosen": "a", "rejected": "<think>never ends"},
        {"prompt": "Long? " + "word " * 300, "chosen": "a", "rejected": "b"},
    ]
    data = write_rows(tmp_path / "some.jsonl", rows)
    with pytest.raises(TaskError, match=r"6 examples cannot be used: 2 × equal .*line 31.*unusable=drop"):
        train(tmp_path / "out", f"data.0.path={data}")
    assert not (tmp_path / "out").exists()
    summary = train(tmp_path / "out", f"data.0.path={data}", "unusable=drop", "epochs=1")
    assert summary["data"]["unusable"] == {"equal": 2, "tie": 1, "reversed": 1, "empty": 1, "too-long": 1}
    assert summary["data"]["train"] + summary["data"]["held_out"] == 30


def test_a_separate_held_out_file_stays_apart(train: Train, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", pairs(5, seed=9))
    summary = train(tmp_path / "out", f"data.0.held_out={held}", "epochs=1")
    assert summary["data"]["held_out"] == 5
    assert summary["data"]["left_out_as_held_out_elsewhere"] == 5  # the same five prompts in the training file
    assert summary["data"]["train"] == 55


def test_other_architectures_are_refused_before_anything_starts(
    train: Train, tmp_path: Path, small_tokenizer: Any
) -> None:
    import transformers

    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=small_tokenizer.vocab_size)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    small_tokenizer.save(tmp_path / "gpt2")
    with pytest.raises(ModelError, match="cannot carry a value head"):
        train(tmp_path / "out", f"model.path={tmp_path / 'gpt2'}")
    assert not RunFolder.exists(tmp_path / "out")


def test_a_damaged_reward_model_is_named(train: Train, tmp_path: Path) -> None:
    train(tmp_path / "out", "epochs=null", "steps=1", "evaluation.every=null")
    model = tmp_path / "out" / "model"
    assert set(load_file(model / "value_head.safetensors")) == {"score.weight", "score.bias"}
    assert load_checkpoint(str(model)).config is not None  # a language model's folder still
    (model / "value_head.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(RunFolderError, match=r"value_head.safetensors` is damaged"):
        load_reward_checkpoint(str(model))
    (model / "checksums.json").unlink()
    with pytest.raises(ModelError, match="value head"):
        load_reward_checkpoint(str(model))
    (model / "reward_model.json").unlink()
    with pytest.raises(ModelError, match="no reward model"):
        load_reward_checkpoint(str(model))
    with pytest.raises(ModelError, match="there is no reward model"):
        load_reward_checkpoint(str(tmp_path / "nowhere"))
