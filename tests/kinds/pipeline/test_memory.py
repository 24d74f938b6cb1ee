"""What a pipeline's stages take they give back: the last one finds as much memory as the first."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from rethink.kinds.pipeline.run import run_pipeline
from rethink.model.decoder.decoder import Decoder
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.optimizer import MasterAdamW

from .real_stages import write_recipe


def alive() -> dict[str, int]:
    """How many optimizers, models and tensors with a gradient there are."""
    gc.collect()
    found = {"optimizers": 0, "models": 0, "weights": 0}
    for thing in gc.get_objects():
        kind = type(thing)  # not isinstance: some objects warn when they are asked for their class
        found["optimizers"] += kind is MasterAdamW
        found["models"] += kind is Decoder
        found["weights"] += kind is torch.Tensor and hasattr(thing, "main_grad")
    return found


def test_stages_leave_nothing_in_memory(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    recipe = load_recipe(write_recipe(tmp_path, tiny_folder("llama")))
    before = alive()
    summary = run_pipeline(recipe, tmp_path / "out", progress=make_progress("none"))
    assert {stage["kind"] for stage in summary["stages"]} == {"grpo", "samples", "sft", "reward-model", "eval"}
    assert alive() == before
