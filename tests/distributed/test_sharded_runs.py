"""Runs whose ranks shard weights: killed and resumed to the same weights; what cannot be sharded is refused first."""

from __future__ import annotations

import contextlib
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

from rethink.cli import main
from rethink.distributed.cluster import Cluster, read_cluster
from rethink.distributed.demand import demand_of
from rethink.distributed.opening import on_cluster
from rethink.distributed.rank_opening import check_device, check_kind
from rethink.distributed.sharded_model import ShardedDecoder
from rethink.distributed.watch import Onlooker
from rethink.errors import RunFolderError, UsageError
from rethink.kinds.grpo.run import train
from rethink.kinds.sft.run import train_sft
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.recovery import until_done
from rethink.store.run_folder import RunFolder
from tests.kinds.reward_model.examples import write_rows
from tests.kinds.sft.test_run import RECIPE as SFT

from .test_ranks import rank_process, same
from .test_sharded import FP32, close

DIE = Path(__file__).parents[1] / "runs" / "die.py"
FILE = "workers: 0\nranks: 2\nrank_threads: 1\ntrainer: {strategy: fsdp2}\n"


def cluster(**values: Any) -> Cluster:
    sharded = {"workers": 0, "ranks": 2, "hang_seconds": 3, "trainer": {"strategy": "fsdp2"}}
    return Cluster.model_validate(sharded | values)


@pytest.fixture
def go(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`go(out, *overrides, where=…)` trains and returns the notes."""
    monkeypatch.setenv("PYTHONPATH", str(recipe_file.parent))  # the rewards' module, for reward workers

    def run(out: Path, *overrides: str, where: Cluster | None = None, resume: bool = False) -> list[str]:
        progress, notes = make_progress("none"), list[str]()
        recipe = load_recipe(recipe_file, overrides)
        with on_cluster(where or cluster(), Onlooker(notes.append)):
            until_done(lambda resume: train(recipe, out, resume=resume, progress=progress), resume, out, notes.append)
        return notes

    return run


def test_a_rank_that_is_killed_is_named_and_the_run_ends_in_the_same_weights(
    go: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("model.dtype=bfloat16", "steps=5", "evaluation={problems: 0}", "checkpoint={every: 2}")
    assert not go(tmp_path / "whole", *short)
    compute, calls = ShardedDecoder.completion_loss, [0]

    def watched(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            os.kill(rank_process(1), signal.SIGKILL)
        return compute(*arguments, **options)

    monkeypatch.setattr(ShardedDecoder, "completion_loss", watched)
    (note,) = go(tmp_path / "killed", *short)
    assert "trainer rank 1 was ended by SIGKILL, while rank 0 waited for" in note
    same(tmp_path / "whole", tmp_path / "killed")
    latest = RunFolder.open(tmp_path / "killed").latest_checkpoint()
    assert latest is not None
    files = sorted(path.name for path in latest[1].glob("[!o]*.safetensors"))  # beside old log-probabilities
    assert files == ["reference.safetensors", *(f"sharded-0000{n}-of-00002.safetensors" for n in (1, 2))]
    with pytest.raises(RunFolderError, match=r"strategy `fsdp2`.*trainer: \{strategy: fsdp2\}"):
        train(load_recipe(tmp_path / "tiny.yaml", [*short, "steps=6"]), tmp_path / "killed", resume=True,
              progress=make_progress("none"))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "transformers"])
def test_a_driver_that_is_killed_is_resumed_to_the_same_weights(
    engine: str, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{recipe_file.parent}{os.pathsep}{Path.cwd()}")
    file, recipe = tmp_path / "cluster.yaml", tmp_path / "chosen.yaml"
    file.write_text(FILE)
    recipe.write_text(recipe_file.read_text().replace("rollout: {", f"rollout: {{engine: {engine}, "))
    command = ["train", str(recipe), "--plain", "--cluster", str(file), "--resume", "--out"]
    assert main.main([*command, str(tmp_path / "whole")]) == 0
    killed = subprocess.run(
        [sys.executable, str(DIE), str(recipe), str(tmp_path / "killed"), "40", "before", str(file)], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert main.main([*command, str(tmp_path / "killed")]) == 0
    same(tmp_path / "whole", tmp_path / "killed")


def test_fine_tuning_takes_the_steps_of_one_process(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    rows = [{"prompt": f"{n} + 1?", "completion": f"{'so ' * (n % 5)}{n + 1}"} for n in range(20)]
    write_rows(tmp_path / "sums.jsonl", rows)
    write_rows(tmp_path / "chats.jsonl", rows[:9])
    path = tmp_path / "sft.yaml"
    path.write_text(SFT.format(model=tiny_folder("llama"), folder=tmp_path))
    recipe = load_recipe(path, ["epochs=null", "steps=3", "optimizer.lanes=3"])
    trained = {}
    for name, where in (("alone", contextlib.nullcontext()), ("sharded", on_cluster(cluster(), Onlooker(print)))):
        with where:
            train_sft(recipe, tmp_path / name, resume=False, progress=make_progress("none"))
        trained[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    close(trained["alone"], trained["sharded"], FP32)
    assert set(trained["alone"]) == set(trained["sharded"])
    start = load_file(path.parent / "llama" / "model.safetensors")
    assert any(not torch.equal(start[name], weight) for name, weight in trained["sharded"].items() if name in start)


@pytest.mark.slow
def test_a_run_goes_on_at_another_number_of_ranks(go: Callable[..., list[str]], tmp_path: Path) -> None:
    go(tmp_path / "run", "optimizer.lanes=2", "evaluation={problems: 0}", "steps=3", "optimizer.schedule=constant")
    more = ("optimizer.lanes=2", "evaluation={problems: 0}", "steps=5", "optimizer.schedule=constant")
    assert not go(tmp_path / "run", *more, where=cluster(ranks=3), resume=True)
    assert [row["step"] for row in RunFolder.open(tmp_path / "run").metrics()] == list(range(6))


def test_ranks_that_cannot_compute_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="one rank saves nothing"):
        check_device(cluster(ranks=1), "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"asks for 4 trainer ranks.* has 2\. Write `ranks: 2`"):
        check_device(cluster(ranks=4), "cuda")
    with pytest.raises(UsageError, match=r"replicate weights.*strategy: fsdp2"):
        check_device(Cluster(ranks=2), "cuda")
    check_device(cluster(ranks=1), "cuda")


def test_wrong_cluster_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    for text, words in {
        "ranks: 2\ntrainer: {strategy: fsdp3}\n": "fsdp3|strategy",
        "ranks: 2\ntrainer: {recompute: true}\n": "`recompute` is of `strategy: fsdp2`",
    }.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            read_cluster(str(path))
    path.write_text("workers: 0\ntrainer: {strategy: fsdp2}\n")
    assert read_cluster(str(path)).ranks == 1  # for one GPU


def test_kinds_that_cannot_be_sharded_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"kind `reward-model`.*`grpo` or `sft`"):
        check_kind(cluster(), load_recipe("reward-model", []))
    check_kind(cluster(), load_recipe("quickstart", []))
    check_kind(cluster(trainer={}), load_recipe("reward-model", []))


def test_a_plan_counts_a_shard_of_each_rank(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [])
    places = (cluster(trainer={}), cluster(), cluster(ranks=4))
    replicated, two, four = (demand_of(recipe, where).driver_bytes or 0 for where in places)
    assert 0 < four < two < replicated
    with pytest.raises(UsageError, match="one rank saves nothing"):
        demand_of(recipe, cluster(ranks=1))
