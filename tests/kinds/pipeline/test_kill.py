"""A pipeline that is killed at any moment and run again ends bit-identical, and no stage that was done runs again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder
from tests.paths import ROOT
from tests.runs.compare import timeless

from .real_stages import write_recipe

KILL = Path(__file__).parent / "kill.py"


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    return write_recipe(tmp_path, tiny_folder("llama"))


def kill(recipe: Path, base: Path, moments: list[str]) -> int:
    """Kill and resume at each moment, and compare with the whole run; returns the whole run's number of calls."""
    base.mkdir(exist_ok=True)
    result = subprocess.run(
        [sys.executable, str(KILL), str(recipe), str(base), *moments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    for number, moment in enumerate(said["moments"]):
        may = (-signal.SIGKILL, 0) if moment["moment"].endswith("t") else (-signal.SIGKILL,)
        assert moment["died"] in may, result.stderr
        assert moment["again"] == 0, result.stderr
        for stage, attempts in moment["done"].items():
            assert stage not in moment["ran"], "a stage that was done ran again"
            assert moment["after"][stage] == attempts
        same_pipeline(base / "whole", base / f"killed-{number}")
    return int(said["calls"])


def same_pipeline(one: Path, two: Path, aside: tuple[str, ...] = ()) -> None:
    first, second = PipelineFolder.open(one), PipelineFolder.open(two)
    assert first.stages == second.stages
    assert first.read_results("comparisons") == second.read_results("comparisons")
    for record in first.records().values():
        left, right = first.stage_path(record), second.stage_path(second.records()[record.hash])
        a, b = RunFolder.open(left), RunFolder.open(right)
        assert timeless(a, aside) == timeless(b, aside), record.name
        assert a.samples() == b.samples()
        for name in a.samples():
            assert a.read_samples(name) == b.read_samples(name)
        assert a.batches() == b.batches()
        files = sorted(path.relative_to(left) for path in left.rglob("*.safetensors"))
        assert files == sorted(path.relative_to(right) for path in right.rglob("*.safetensors"))
        for file in [
            *files,
            *(path.relative_to(left) for path in left.glob("*.jsonl") if path.name != "metrics.jsonl"),
        ]:
            assert (left / file).read_bytes().replace(bytes(one), b"") == (right / file).read_bytes().replace(
                bytes(two), b""
            ), file
        if record.kind not in ("eval", "samples"):
            assert files, record.name


@pytest.mark.timeout(600)
def test_killed_at_three_moments(recipe: Path, tmp_path: Path) -> None:
    """Without the last two stages, for the sake of time."""
    text = recipe.read_text()
    recipe.write_text(text[: text.index("  judge:")] + text[text.index("evaluation:\n") :])
    dice = random.Random(11)
    moments = [f"{dice.uniform(0.05, 0.95):.3f}{when}" for when in "ab"]
    kill(recipe, tmp_path / "base", [*moments, f"{dice.uniform(0.2, 0.9):.3f}t"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_moments(recipe: Path, tmp_path: Path) -> None:
    dice = random.Random(5)
    by_call = [f"{dice.uniform(0.005, 0.999):.4f}{dice.choice('ab')}" for _ in range(12)]
    by_clock = [f"{dice.uniform(0.02, 0.98):.3f}t" for _ in range(8)]
    kill(recipe, tmp_path / "base", by_call + by_clock)
