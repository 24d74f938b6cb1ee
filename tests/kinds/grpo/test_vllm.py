"""GRPO that samples on vLLM: on a fake that plays its own copy of the weights; what a recipe gets, and is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli.main import main
from rethink.distributed.cluster import Cluster
from rethink.distributed.demand import demand_of
from rethink.errors import EngineFailure, RecipeError, UsageError
from rethink.kinds.grpo import loop
from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.loop import GRPO
from rethink.observe.glossary import describe
from rethink.plan.estimate import GIB, Memory
from rethink.recipe.identity import recipe_hash
from rethink.recipe.recipe_files import load_recipe
from rethink.recipe.schema import ModelShape
from rethink.store.run_folder import RunFolder
from tests import fake_vllm
from tests.distributed.local_workers import local_workers

Run = Callable[..., dict[str, Any]]
VLLM = (
    "rollout.engine=vllm",
    "steps=3",
    "algorithm.epochs=1",
    "evaluation={problems: 0}",
    "optimizer.warmup_steps=1",
    "rollout.kv_budget_gb=0.01",
)
CLUSTER = Cluster(workers=2, kv_budget_gb=1.0)
SHAPE = ModelShape(
    hidden_size=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate_size=128, vocab_size=1000, context=512
)


def hash_of(out: Path) -> str:
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("more", [(), ("rollout.lag=1",)])
def test_a_run(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
    fake_vllm.install(monkeypatch)
    assert run(tmp_path / "run", *VLLM, *more)["finished"]
    folder = RunFolder.open(tmp_path / "run")
    for row in folder.metrics():
        for name in row:
            describe(name)
        if row["step"]:
            assert row["time/sync"] > 0
            assert row["policy/correction"] == pytest.approx(1.0, abs=0.2 if more else 1e-3)
            sampled_by_it = not more and row["step"] % 2 == 1  # before the first update on the batch
            assert (row["policy/mismatch"] < 1e-3) == (sampled_by_it or row["step"] == 1)
    assert "correction: tis" in (tmp_path / "run" / "recipe.yaml").read_text()
    versions = {r.completion.version for r in folder.read_rollouts(0) or []}
    assert versions == {0}


def test_a_run_that_breaks_off_and_is_resumed(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    """The fake repeats itself, so that both runs end alike; vLLM itself need not."""
    fake_vllm.install(monkeypatch)
    options = (*VLLM, "checkpoint.every=1")
    run(tmp_path / "whole", *options)
    step, done = loop.step, []

    def breaks(state: GRPO) -> dict[str, float]:
        done.append(state)
        if len(done) == 3:
            raise EngineFailure("it broke")
        return step(state)

    monkeypatch.setattr(loop, "step", breaks)
    with pytest.raises(EngineFailure, match="it broke"):
        run(tmp_path / "broken", *options)
    monkeypatch.setattr(loop, "step", step)
    run(tmp_path / "broken", *options, resume=True)
    assert len(done) == 3
    assert hash_of(tmp_path / "whole") == hash_of(tmp_path / "broken")


def test_a_run_on_workers(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    """Each worker has an engine with a copy; the driver opens none."""
    fake = fake_vllm.install(monkeypatch)
    run(tmp_path / "alone", *VLLM)
    assert len(fake.models) == 1
    with local_workers(2):
        run(tmp_path / "spread", *VLLM)
    assert len(fake.models) == 3
    assert hash_of(tmp_path / "alone") == hash_of(tmp_path / "spread")


def test_without_vllm_nothing_is_started(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    fake_vllm.hide(monkeypatch)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[vllm\]'"):
        run(tmp_path / "run", *VLLM)
    assert not (tmp_path / "run").exists()


def test_a_correction_is_on_unless_the_recipe_says_otherwise(recipe_file: Path) -> None:
    def correction(*overrides: str) -> tuple[str, float | None]:
        found = load_recipe(recipe_file, overrides).algorithm
        return found.correction, found.correction_cap

    assert correction() == ("none", None)
    assert correction("rollout.engine=vllm") == ("tis", 2.0)
    assert correction("rollout.engine=vllm", "algorithm.correction=none") == ("none", None)
    assert correction("rollout.engine=vllm", "algorithm.correction=mask") == ("mask", 5.0)
    said = load_recipe(recipe_file, ["rollout.engine=vllm", "algorithm.correction=tis"])
    assert recipe_hash(said) == recipe_hash(load_recipe(recipe_file, ["rollout.engine=vllm"]))
    assert said.algorithm.mini_batches == 2  # what the recipe sets stays


CUT = ("rollout.engine=vllm", "rollout.top_p=0.9", "rollout.allow_truncated=true")


@pytest.mark.parametrize(
    ("more", "why"), [((), "correction=tis"), (("algorithm.correction=none", "rollout.lag=1"), "lag=1")]
)
def test_a_cut_hides_what_a_correction_needs(recipe_file: Path, more: tuple[str, ...], why: str) -> None:
    with pytest.raises(RecipeError, match=rf"`rollout.engine` is `vllm`.*{why}.*rollout.top_p=1 rollout.top_k=0"):
        load_recipe(recipe_file, [*CUT, *more])


def test_a_cut_without_a_correction(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    fake_vllm.install(monkeypatch)
    run(tmp_path / "run", *VLLM, *CUT, "algorithm.correction=none")
    for row in RunFolder.open(tmp_path / "run").metrics():
        assert "policy/mismatch" not in row  # it is not known
        assert all(value == value for value in row.values())


def test_the_memory_of_the_copy_is_counted(recipe_file: Path) -> None:
    def memory(*overrides: str) -> Memory:
        return estimate(load_recipe(recipe_file, ["model.dtype=bfloat16", *overrides]), SHAPE).memory

    own, copied = memory("rollout.kv_budget_gb=1"), memory("rollout.kv_budget_gb=1", "rollout.engine=vllm")
    assert copied.engine_weights == own.compute_weights > 0
    assert copied.keys_and_values_most == GIB > own.keys_and_values_most  # it takes all that it may
    assert copied.at_once(3, 4) == 7  # and keeps it
    assert own.at_once(3, 4) == 4
    assert copied.most - own.most == copied.engine_weights + GIB - own.keys_and_values_most


def test_plans_of_such_a_recipe(
    monkeypatch: pytest.MonkeyPatch, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe_file), *VLLM, "--dry-run"]) == 0
    assert "the engine's copy" in capsys.readouterr().out
    plain = demand_of(load_recipe(recipe_file), CLUSTER)
    copied = demand_of(load_recipe(recipe_file, ["rollout.engine=vllm"]), CLUSTER)
    assert plain.driver_bytes == copied.driver_bytes
    assert plain.worker_bytes is not None
    assert copied.worker_bytes is not None
    assert plain.worker_bytes < copied.worker_bytes
    with pytest.MonkeyPatch.context() as patch:
        fake_vllm.hide(patch)
        assert main(["cluster", "plan", str(recipe_file), "local:2", "rollout.engine=vllm"]) == 2
        assert "needs the package `vllm`" in capsys.readouterr().err
        assert main(["check", str(recipe_file), "rollout.engine=vllm"]) == 1
        assert "needs the package `vllm`" in " ".join(capsys.readouterr().out.split())
    fake_vllm.install(monkeypatch)
    assert main(["cluster", "plan", str(recipe_file), "local:2", "rollout.engine=vllm"]) == 0
