"""Every kind of training that ranks share ends in the bits of one process, on any number of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rethink.cli import main
from rethink.distributed.cluster import Cluster
from rethink.distributed.demand import demand_of
from rethink.distributed.opening import on_cluster
from rethink.distributed.watch import Onlooker
from rethink.errors import RankLost, UsageError
from rethink.kinds.reward_model import update as reward_update
from rethink.kinds.reward_model import wire as reward_wire
from rethink.kinds.reward_model.run import load_start, read_data
from rethink.kinds.sft import update as sft_update
from rethink.kinds.sft import wire as sft_wire
from rethink.kinds.sft.recipe import SFTOptimizer
from rethink.model.heads.value_head import build_reward_model
from rethink.observe.progress import make_progress
from rethink.recipe.kind import kind_named, kinds
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.recovery import until_done
from rethink.store.run_folder import RunFolder
from tests.distributed.local_ranks import local_ranks
from tests.kinds.preference.test_run import RECIPE as PREFERENCE
from tests.kinds.reward_model.examples import RECIPE as REWARD_MODEL
from tests.kinds.reward_model.examples import labelled, pairs, write_rows
from tests.kinds.sft.test_loop import documents, model_of
from tests.kinds.sft.test_loop import recipe as sft_recipe
from tests.kinds.sft.test_run import RECIPE as SFT
from tests.models import decoder_of

from .conftest import At
from .test_ranks import parts, rank_process, same

SHORT = ("epochs=null", "steps=4", "optimizer.lanes=3", "checkpoint={every: 2}", "model.dtype=bfloat16")


@pytest.fixture(params=["sft", "reward-model", "preference"])
def recipe_file(request: pytest.FixtureRequest, tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    """A tiny run of each kind beside GRPO, which has tests of its own."""
    rows = [{"prompt": f"{n} + 1?", "completion": f"{'so ' * (n % 5)}{n + 1}"} for n in range(20)]
    for name, made in (("sums", rows), ("chats", rows[:9]), ("pairs", pairs(24))):
        write_rows(tmp_path / f"{name}.jsonl", made)
    text = {"sft": SFT, "reward-model": REWARD_MODEL, "preference": PREFERENCE}[request.param]
    path = tmp_path / "tiny.yaml"
    path.write_text(text.format(model=tiny_folder("llama"), folder=tmp_path, data=tmp_path / "pairs.jsonl"))
    return path


def go(recipe_file: Path, out: Path, *overrides: str, ranks: int = 1, resume: bool = False) -> list[str]:
    """Train, and return the notes."""
    recipe, progress, notes = load_recipe(recipe_file, [*SHORT, *overrides]), make_progress("none"), []
    run = kind_named(recipe.kind).load("run")
    with local_ranks(ranks) if ranks > 1 else contextlib.nullcontext():
        until_done(lambda resume: run(recipe, out, resume=resume, progress=progress), resume, out, notes.append)
    return notes


def test_any_number_of_ranks_gives_the_bits_of_one(recipe_file: Path, tmp_path: Path) -> None:
    for ranks in (1, 2, 3):
        go(recipe_file, tmp_path / str(ranks), ranks=ranks)
        assert RunFolder.open(tmp_path / str(ranks)).choices["lanes"] == 3
        same(tmp_path / "1", tmp_path / str(ranks))
    assert parts(tmp_path / "3") == [f"optimizer-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert "time/exchange" in RunFolder.open(tmp_path / "2").metrics()[-1]


def test_a_lost_rank_is_named_and_the_run_goes_on(recipe_file: Path, at_exchange: At, tmp_path: Path) -> None:
    go(recipe_file, tmp_path / "alone")

    def strike() -> None:
        raise RankLost("trainer rank 1 is gone")

    at_exchange({6}, strike)  # three lanes are two rounds: in the third step
    (note,) = go(recipe_file, tmp_path / "shared", ranks=2)
    assert "trainer rank 1 is gone. All ranks are started again" in note
    same(tmp_path / "alone", tmp_path / "shared")


@pytest.mark.slow
def test_a_process_that_is_killed(recipe_file: Path, at_exchange: At, tmp_path: Path) -> None:
    go(recipe_file, tmp_path / "alone")
    at_exchange({5}, lambda: os.kill(rank_process(1), signal.SIGKILL))
    with on_cluster(Cluster(workers=0, ranks=2, hang_seconds=3), Onlooker(print)):
        (note,) = go(recipe_file, tmp_path / "shared")
    assert "trainer rank 1 was ended by SIGKILL, while rank 0 waited for" in note
    same(tmp_path / "alone", tmp_path / "shared")


def test_the_lanes_are_recorded(recipe_file: Path, at_exchange: At, tmp_path: Path) -> None:
    """None in the recipe: the number of ranks at the start, which a resume in one process keeps."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    go(recipe_file, tmp_path / "alone", "optimizer.lanes=2")
    at_exchange({3}, interrupt)  # in the third step
    with pytest.raises(KeyboardInterrupt):
        go(recipe_file, tmp_path / "shared", "optimizer.lanes=null", ranks=2)
    go(recipe_file, tmp_path / "shared", "optimizer.lanes=null", resume=True)
    same(tmp_path / "alone", tmp_path / "shared")


def test_every_kind_that_trains_can_be_shared() -> None:
    ours = [kind for kind in kinds().values() if kind.recipe.startswith("rethink.")]
    assert [kind.name for kind in ours if kind.trains and kind.lanes is None] == []


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    for name, gradient in one.items():
        assert torch.allclose(gradient, two[name], rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_lanes_of_documents(aggregation: str) -> None:
    """They add up to the step."""
    chosen, found = sft_recipe(aggregation), []
    for number in (1, 2, 3, 99):
        model = decoder_of(model_of("Llama"), torch.float64)
        optimizer, statistics = MasterAdamW(model, SFTOptimizer()), []
        for lane in sft_update.lanes_of(documents(), number):
            travelled = sft_wire.unpack(sft_wire.pack(lane))
            statistics.append(sft_update.accumulate_gradients(chosen, model, None, travelled, 0, 30))
        assert len(statistics) == min(number, len(documents()))
        found.append((sft_update.StepStats.merged(statistics), optimizer.gradients()))
    for stats, gradients in found[1:]:
        close(found[0][1], gradients)
        assert stats.metrics() | {"train/input_tokens": 0} == pytest.approx(
            found[0][0].metrics() | {"train/input_tokens": 0}, rel=1e-9
        )  # what documents of one lane begin with alike is computed once


@pytest.mark.parametrize("objective", ["pairwise", "pointwise"])
def test_lanes_of_examples(objective: str, tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    data = write_rows(tmp_path / "rows.jsonl", pairs(12) if objective == "pairwise" else labelled(12))
    path = tmp_path / "rm.yaml"
    path.write_text(REWARD_MODEL.format(model=tiny_folder("llama"), data=data))
    recipe, found = load_recipe(path, [f"objective={objective}"]), []
    examples = read_data(recipe, load_start(recipe)).train[:7]
    for number in (1, 3):
        model = build_reward_model(load_start(recipe), "float32", "cpu")
        optimizer, statistics = MasterAdamW(model, recipe.optimizer), []
        for lane in reward_update.lanes_of(examples, number):
            travelled = reward_wire.unpack(reward_wire.pack(lane))
            statistics.append(reward_update.accumulate_gradients(recipe, model, None, travelled, 0, 60))
        found.append((reward_update.StepStats.merged(statistics), optimizer.gradients()))
    (one, gradients), (three, others) = found
    assert three.loss == pytest.approx(one.loss, rel=1e-5)
    assert sorted(three.margins) == pytest.approx(sorted(one.margins), abs=1e-5)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-5), name


def test_a_cluster_of_no_use_is_refused(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(recipe_file), "--out", str(tmp_path / "out"), "--cluster"]
    assert main.main([*words, "local:2"]) == 2
    assert (
        "samples nothing here, so this cluster is of no use to it; write `local:0,ranks=2`" in capsys.readouterr().err
    )
    assert main.main(["cluster", "plan", str(recipe_file), "local:0,ranks=3"]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in printed[:4]] == ["process", "driver", "rank-1", "rank-2"]
    with pytest.raises(UsageError, match="samples nothing"):
        demand_of(load_recipe(recipe_file), Cluster(workers=2))


def test_the_plan_knows_threads_and_lanes(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.distributed.cluster.usable_threads", lambda: 8)
    silent, cluster = load_recipe(recipe_file, ["threads=null"]), Cluster(workers=0, ranks=2)
    assert demand_of(silent, cluster).driver_threads == 4
    assert demand_of(load_recipe(recipe_file, ["threads=3"]), cluster).driver_threads == 3
    one = demand_of(load_recipe(recipe_file, ["optimizer.lanes=1"]), cluster).driver_bytes
    two = demand_of(silent, cluster).driver_bytes
    assert one is not None
    assert two is not None
    assert two > one, "the sum of the lanes takes memory too"
