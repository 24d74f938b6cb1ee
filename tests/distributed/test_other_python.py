"""Workers in another environment: what is said of its Python before anything slow, and a real one on Ray."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.distributed.cluster import Cluster, read_cluster
from rethink.distributed.host import facts
from rethink.distributed.opening import on_cluster
from rethink.distributed.other_python import facts_of
from rethink.distributed.watch import Onlooker
from rethink.errors import UsageError
from rethink.rollout.engines import check_there
from rethink.store.run_folder import RunFolder
from tests.distributed.test_placement import python

VLLM_PYTHON = os.environ.get("RETHINK_VLLM_PYTHON", "")
"""A Python that has vLLM, Ray and Rethink, and need not be this one."""


@pytest.fixture
def says(tmp_path: Path) -> Callable[..., str]:
    """`says(text, error, code)`: the path of a Python that prints that, whatever it is asked."""

    def make(out: str = "", error: str = "", code: int = 0) -> str:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{out}\nEND\necho '{error}' >&2\nexit {code}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_same_python_serves(tmp_path: Path) -> None:
    found = facts_of(sys.executable, [str(tmp_path)], ["torch", "nowhere"])
    own = {name: value for name, value in facts([str(tmp_path)]).items() if name != "clock"}
    assert found.items() >= own.items()
    assert found["engine torch"] == "there"
    assert "no engine 'nowhere'" in found["engine nowhere"]


def test_a_python_that_cannot_be_a_workers(says: Callable[..., str]) -> None:
    def error(*said: object) -> str:
        return facts_of(says(*said))["error"]

    assert "cannot be run (No such file" in facts_of("/no/such/python")["error"]
    lacking = error("", "ModuleNotFoundError: No module named rethink", 1)
    assert "cannot import all of Rethink" in lacking
    assert "-m pip install" in lacking
    assert "ended with Killed" in error("", "Killed", 137)
    other = error(json.dumps(facts() | {"ray": "2.9.0"}))
    assert f"has ray 2.9.0 (here: {facts()['ray']}). Install the same versions" in other


def test_it_is_refused_before_anything_slow(monkeypatch: pytest.MonkeyPatch, says: Callable[..., str]) -> None:
    pytest.importorskip("ray")
    python = says(json.dumps(facts() | {"engine vllm": "the engine `vllm` needs the package `vllm`"}))
    with (
        pytest.raises(UsageError, match=r"no worker can start.* needs the package `vllm`"),
        on_cluster(Cluster(python=python), Onlooker(print)),
    ):
        check_there("vllm")
    with (
        pytest.raises(UsageError, match=r"no worker can start.*cannot be run"),
        on_cluster(Cluster(python="/no/such/python"), Onlooker(print)),
    ):
        pass


def test_it_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("python: python3\n")
    with pytest.raises(UsageError, match="`python`"):
        read_cluster(str(path))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_grpo_on_the_real_vllm_in_another_environment(
    recipe_file: Path, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    if not VLLM_PYTHON:
        pytest.skip("RETHINK_VLLM_PYTHON names no Python that has vLLM (docs/cluster.md says how to make one)")
    shape = {"hidden_size": 128, "head_dim": 32, "tie_word_embeddings": True}  # the narrowest heads that it takes
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"workers: 1\npython: {VLLM_PYTHON}\nkv_budget_gb: 0.1\nstart_seconds: 600\n")
    model = tiny_folder("llama", "wide", **shape)
    one_update = (f"model.path={model}", "algorithm.mini_batches=1", "algorithm.epochs=1")
    words = ("rollout.engine=vllm", "steps=2", "optimizer.warmup_steps=1", "evaluation={problems: 0}", *one_update)
    done = python(
        "-m", "rethink", "train", recipe_file, *words, "--out", tmp_path / "run", "--cluster", cluster, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    folder = RunFolder.open(tmp_path / "run")
    rows = [row for row in folder.metrics() if row["step"]]
    assert len(rows) == 2
    for row in rows:
        assert row["policy/correction"] == pytest.approx(1.0, abs=0.05)
        assert row["policy/mismatch"] < 0.02
    assert "correction: tis" in (tmp_path / "run" / "recipe.yaml").read_text()
