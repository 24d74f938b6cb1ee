"""Where a run is placed changes nothing of it: evaluations, curation, pipelines, and runs that move on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.store.run_folder import RunFolder
from tests.kinds.pipeline.real_stages import write_recipe
from tests.kinds.pipeline.test_kill import same_pipeline
from tests.paths import ROOT
from tests.runs.compare import PLACES, same_run

DIE = ROOT / "tests/runs/die.py"
SPREAD = ("--cluster", "local:2")
WITHOUT_RAY = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "ray":
            raise AssertionError("ray is imported")
sys.meta_path.insert(0, Refuse())
from rethink.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
CURATED = """\
name: tiny-samples
kind: samples
problems: 6
threads: 1
model: {{path: {model}, dtype: float32}}
prompt: {{template: raw, instruction: "{{question}}"}}
tasks: [{{kind: reasoning-gym, name: chain_sum}}]
sampling: {{per_problem: 3, prompts_per_batch: 2, max_new_tokens: 12}}
filters:
  {{correct: null, format: null, language: null, tags: false, truncated: false, repetition: null, duplicate: null}}
"""


def python(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own; `folder` holds the module with the recipe's rewards."""
    memory = {"RAY_memory_monitor_refresh_ms": "0"}  # other tests may fill the memory
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, **memory, "PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def rethink(*words: object, folder: Path) -> None:
    done = python("-m", "rethink", *words, folder=folder)
    assert done.returncode == 0, done.stderr


def test_one_process_never_imports_ray(recipe_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    caught = python("-c", WITHOUT_RAY, "eval", "--model", "m", "--bench", "gsm8k", *SPREAD, folder=tmp_path)
    assert "ray is imported" in caught.stderr
    assert python("-c", WITHOUT_RAY, "--help", folder=tmp_path).returncode == 0
    trained = python(
        "-c", WITHOUT_RAY, "train", recipe_file, "steps=2", "optimizer.warmup_steps=1", "--out", "out", folder=tmp_path
    )
    assert trained.returncode == 0, trained.stderr


@pytest.mark.slow
def test_an_evaluation(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = tmp_path / "tiny.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(6)))
    model = tiny_folder("llama", max_position_embeddings=1024)
    words = ["eval", "--model", model, "--bench", "gsm8k", "--data", f"gsm8k={data}", "--k", 3, "--max-new-tokens", 16]
    rethink(*words, "--out", tmp_path / "one", folder=tmp_path)
    rethink(*words, "--out", tmp_path / "two", *SPREAD, folder=tmp_path)
    one, two = evaluated(tmp_path / "one"), evaluated(tmp_path / "two")
    assert one == two
    assert len(one[1]) == 18


def evaluated(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results and samples, clocks aside; samples are written in the order in which they end."""
    import pyarrow.parquet

    results = json.loads((folder / "results.json").read_text())["gsm8k"]
    rows = [row for path in sorted(folder.rglob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]
    for row in rows:
        row["seconds"] = row["file_seconds"] = None
    results["tokens_per_s"] = None
    return results, sorted(rows, key=lambda row: (row["problem_id"], row["sample"]))


@pytest.mark.slow
def test_curated_samples(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    recipe = tmp_path / "curated.yaml"
    recipe.write_text(CURATED.format(model=tiny_folder("llama")))
    rethink("train", recipe, "--out", tmp_path / "one", folder=tmp_path)
    rethink("train", recipe, "--out", tmp_path / "two", *SPREAD, folder=tmp_path)
    for name in ("samples.jsonl", "train.jsonl", "statistics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one" / "samples.jsonl").read_text().count("\n") == 18


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_folder("llama", head_dim=16))
    rethink("train", recipe, "--out", tmp_path / "one", folder=tmp_path)
    rethink("train", recipe, "--out", tmp_path / "two", *SPREAD, folder=tmp_path)
    same_pipeline(tmp_path / "one", tmp_path / "two", PLACES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_and_its_run_resumed_elsewhere(recipe_file: Path, tmp_path: Path) -> None:
    def run(out: str, at: int = 0, *cluster: str) -> subprocess.CompletedProcess[str]:
        return python(DIE, recipe_file, out, at, "before", *cluster, folder=tmp_path)

    whole = run("whole")
    assert whole.returncode == 0, whole.stderr
    killed = run("killed", round(0.6 * int(whole.stdout)), "local:2")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert RunFolder.open(tmp_path / "killed").latest_checkpoint() is not None
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    for name, *cluster in (("killed", "local:2"), ("alone",)):
        resumed = run(name, 0, *cluster)
        assert resumed.returncode == 0, resumed.stderr
        same_run(tmp_path / "whole", tmp_path / name, PLACES)
