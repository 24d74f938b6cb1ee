"""The one-file GRPO computes what the trainer computes: on a scripted engine, loss and gradient norm are equal."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rethink.kinds.grpo.run import train
from rethink.model.loading import load_checkpoint
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import parse_recipe
from rethink.rollout.engines.scripted import ScriptedEngine
from rethink.store.run_folder import RunFolder
from tests.paths import ROOT

STEPS = 4
SCRIPT = [
    "so</think> <answer>5</answer>", "7", "3 plus 4</think><answer>7</answer>", "<answer>-2</answer>",
    "no idea, really none", "x</think><answer>9</answer> more", "</think><answer>1</answer>",
]  # fmt: skip
"""Seven lines for groups of three: groups differ, some have signal, some none."""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_grpo", ROOT / "examples" / "minimal_grpo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal_grpo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def overrides(folder: Path, beta: float) -> list[str]:
    return [
        f"model.path={folder}", "model.dtype=float32", f"steps={STEPS}", "threads=1", "prompt.template=raw",
        "rollout.prompts_per_batch=4", "rollout.group_size=3", "rollout.max_new_tokens=30", "evaluation.problems=0",
        "optimizer.learning_rate=1e-3", f"algorithm.beta={beta}",
    ]  # fmt: skip


def scripted(folder: Path) -> ScriptedEngine:
    tokenizer = load_checkpoint(str(folder)).tokenizer
    return ScriptedEngine(SCRIPT, tokenizer.encode, end_token=min(tokenizer.end_of_turn_ids))


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_losses_equal_the_trainers(
    example: ModuleType, tiny_folder: Callable[..., Path], tmp_path: Path, beta: float
) -> None:
    folder = tiny_folder("llama", num_hidden_layers=1)
    recipe = parse_recipe(example.RECIPE, "the example", overrides(folder, beta))
    train(recipe, tmp_path / "run", progress=make_progress("none"), engine_factory=lambda *_: scripted(folder))
    rows: list[dict[str, Any]] = RunFolder.open(tmp_path / "run").metrics()[1:]
    assert any(row["optimizer/grad_norm"] > 0 for row in rows)

    parts = example.assemble(recipe, lambda *_: scripted(folder))
    for step, row in enumerate(rows):
        ours = example.grpo_step(parts, step)
        assert ours["reward"] == pytest.approx(row["reward/mean"], abs=1e-12)
        assert ours["loss"] == pytest.approx(row["policy/loss"], abs=1e-6)
        assert ours["grad_norm"] == pytest.approx(row["optimizer/grad_norm"], rel=1e-4, abs=1e-7)


def test_the_example_stays_short() -> None:
    assert len((ROOT / "examples" / "minimal_grpo.py").read_text().splitlines()) < 300
