"""A run that is planned to need more memory than is free is refused before its model is loaded, with what would fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UsageError
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.room import check_grpo_room
from rethink.kinds.grpo.run import train
from rethink.model.decoder.config import DecoderConfig
from rethink.model.loading import load_checkpoint
from rethink.observe.progress import make_progress
from rethink.plan.estimate import GIB
from rethink.recipe.recipe_files import parse_recipe
from rethink.runs.choices import make_choices
from rethink.runs.memory_room import check_training_room

TEXT = """\
name: t
steps: 2
tasks: [{kind: reasoning-gym, name: chain_sum}]
rollout: {prompts_per_batch: 16, group_size: 16, max_new_tokens: 1024, kv_budget_gb: 0.5}
optimizer: {micro_batch_tokens: 8192}
"""


@pytest.fixture
def config() -> DecoderConfig:
    found = load_checkpoint("embedded").config
    assert found is not None
    return found


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, "test", overrides)


def check(chosen: Recipe, config: DecoderConfig) -> None:
    choices = {
        "dtype": "bfloat16",
        "device": "cpu",
        "micro_batch_tokens": chosen.optimizer.micro_batch_tokens,
        "kv_budget_bytes": int((chosen.rollout.kv_budget_gb or 0) * GIB),
    }
    check_grpo_room(chosen, config, choices)


def free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr("rethink.runs.memory_room.free_memory", lambda device: int(gib * GIB))


def refused(chosen: Recipe, config: DecoderConfig) -> str:
    with pytest.raises(UsageError) as caught:
        check(chosen, config)
    return str(caught.value)


@pytest.mark.parametrize(
    ("gib", "overrides", "names"),
    [
        (4.0, (), ["optimizer.micro_batch_tokens"]),
        (2.6, (), ["rollout.max_new_tokens", "optimizer.micro_batch_tokens"]),
        (3.5, ("rollout.kv_budget_gb=9", "optimizer.micro_batch_tokens=1200"), ["rollout.kv_budget_gb"]),
        (3.5, ("rollout.kv_budget_gb=9",), ["optimizer.micro_batch_tokens", "rollout.kv_budget_gb"]),
    ],
)
def test_what_is_said_to_fit_fits_and_uses_the_room(
    monkeypatch: pytest.MonkeyPatch, config: DecoderConfig, gib: float, overrides: tuple[str, ...], names: list[str]
) -> None:
    free(monkeypatch, gib)
    said = refused(recipe(*overrides), config)
    assert f"{gib:.1f} GiB are free" in said
    ways = re.findall(r"([a-z_]+\.[a-z_]+)=([0-9.]+)(?=[,.] )", said)
    assert [name for name, _ in ways] == names
    assert all(float(value) > 0.2 for _, value in ways)
    check(recipe(*overrides, *(f"{name}={value}" for name, value in ways)), config)
    check(recipe(*overrides, "optimizer.over_memory=true"), config)


def test_a_run_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch, config: DecoderConfig) -> None:
    free(monkeypatch, 12.0)
    check(recipe(), config)
    check_grpo_room(recipe(), None, {})  # a model whose shape is not known


def test_a_model_that_is_too_large_and_a_reference(monkeypatch: pytest.MonkeyPatch, config: DecoderConfig) -> None:
    free(monkeypatch, 1.0)
    assert re.search(r"Take a model of less than [0-9]+ million parameters", refused(recipe(), config))
    free(monkeypatch, 2.2)
    short = ("algorithm.beta=0.1", "rollout.max_new_tokens=16", "optimizer.micro_batch_tokens=64")
    assert "What would fit: algorithm.beta=0" in refused(recipe(*short), config)


def test_training_on_given_text(monkeypatch: pytest.MonkeyPatch, config: DecoderConfig) -> None:
    optimizer, choices = recipe().optimizer, {"dtype": "bfloat16", "device": "cpu", "micro_batch_tokens": 8192}
    free(monkeypatch, 12.0)
    check_training_room(optimizer, config, choices, 500, 10_000)
    free(monkeypatch, 3.0)
    check_training_room(optimizer, config, choices, 500, 500)
    with pytest.raises(UsageError, match=r"What would fit: optimizer\.micro_batch_tokens=[0-9]{3,4}\."):
        check_training_room(optimizer, config, choices, 500, 10_000)
    with pytest.raises(UsageError, match=r"What would fit: max_tokens=[0-9]{3,4} "):
        check_training_room(optimizer, config, choices, 6000, 10_000)


def test_the_automatic_budget_leaves_room_for_the_weights(
    monkeypatch: pytest.MonkeyPatch, config: DecoderConfig
) -> None:
    monkeypatch.setattr("rethink.runs.choices.free_memory", lambda device: int(2.3 * GIB))
    chosen = recipe("rollout.kv_budget_gb=null", "model.dtype=bfloat16")
    assert 0 < make_choices(chosen, config, None)["kv_budget_bytes"] < 0.35 * GIB


def test_a_run_is_refused_before_its_model_is_loaded_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    def unwanted(*_: Any, **__: Any) -> None:
        pytest.fail("the model was loaded")

    free(monkeypatch, 0.001)
    monkeypatch.setattr("rethink.kinds.grpo.run.open_engine", unwanted)
    chosen = recipe(f"model.path={tiny_folder('llama')}", "rollout.max_new_tokens=8", "model.dtype=float32")
    with pytest.raises(UsageError, match="--over-memory"):
        train(chosen, tmp_path / "out", progress=make_progress("none"))
    assert not (tmp_path / "out").exists()
