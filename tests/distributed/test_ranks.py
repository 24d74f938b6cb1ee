"""A run that ranks share ends in the bits of one process, on any number of ranks, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.distributed.cluster import Cluster
from rethink.distributed.opening import on_cluster
from rethink.distributed.watch import Onlooker
from rethink.errors import RankLost
from rethink.kinds.grpo.run import train
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.recovery import until_done
from rethink.store.cluster_log import losses
from rethink.store.run_folder import RunFolder
from tests.distributed.test_ray import hash_of
from tests.runs.compare import timeless

from .conftest import At

Go = Callable[..., list[str]]


@pytest.fixture
def go(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """`go(out, *overrides, ranks=…, resume=…)` trains in two lanes and returns the notes."""
    monkeypatch.setenv("PYTHONPATH", str(recipe_file.parent))  # the rewards' module, for reward workers

    def run(out: Path, *overrides: str, ranks: int = 1, resume: bool = False) -> list[str]:
        progress, notes = make_progress("none"), []
        recipe = load_recipe(recipe_file, ["optimizer.lanes=2", *overrides])
        where = on_cluster(Cluster(workers=0, ranks=ranks, hang_seconds=3), Onlooker(notes.append))
        with where if ranks > 1 else contextlib.nullcontext():
            until_done(lambda resume: train(recipe, out, resume=resume, progress=progress), resume, out, notes.append)
        return notes

    return run


def rank_process(number: int) -> int:
    """Process id of a rank of this process."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                ours = f"\nPPid:\t{os.getpid()}\n" in (folder / "status").read_text()
                if ours and f"RETHINK_RANK={number}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    return int(folder.name)
    raise AssertionError(f"there is no rank {number}")


def same(one: Path, two: Path) -> None:
    """The same model, and each step once with the same metrics."""
    assert hash_of(one) == hash_of(two)
    assert timeless(RunFolder.open(one)) == timeless(RunFolder.open(two))


def parts(out: Path) -> list[str]:
    """Files of the optimizer in the latest checkpoint."""
    latest = RunFolder.open(out).latest_checkpoint()
    assert latest is not None
    return sorted(path.name for path in latest[1].glob("optimizer*"))


def test_a_rank_that_is_killed_leaves_the_bits_of_one_process(
    go: Go, at_exchange: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ("model.dtype=bfloat16", "steps=5", "evaluation={problems: 0}")
    go(tmp_path / "alone", *short)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def strike() -> None:
        assert not list(tmp_path.glob("rethink-ranks-*")), "where the ranks met, which a killed driver would leave"
        os.kill(rank_process(1), signal.SIGKILL)

    at_exchange({5}, strike)
    (note,) = go(tmp_path / "shared", *short, ranks=2)
    assert "trainer rank 1 was ended by SIGKILL, while rank 0 waited for" in note
    assert "trainer rank 1 was ended by SIGKILL" in (tmp_path / "shared" / "report.html").read_text()
    same(tmp_path / "alone", tmp_path / "shared")
    assert parts(tmp_path / "shared") == [f"optimizer-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert parts(tmp_path / "alone") == ["optimizer.safetensors"]


@pytest.mark.slow
def test_a_rank_that_stops_is_named(go: Go, at_exchange: At, tmp_path: Path) -> None:
    go(tmp_path / "alone")
    at_exchange({2}, lambda: os.kill(rank_process(2), signal.SIGSTOP))
    (note,) = go(tmp_path / "shared", ranks=3)
    assert "trainer rank 2 has not answered for 3 s and was ended, while rank 0 waited for" in note
    same(tmp_path / "alone", tmp_path / "shared")


@pytest.mark.slow
def test_a_run_goes_on_at_other_numbers_of_ranks(go: Go, at_exchange: At, tmp_path: Path) -> None:
    four = ("optimizer.lanes=4", "algorithm.mini_batches=1", "model.dtype=bfloat16")
    go(tmp_path / "alone", *four)

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_exchange({9, 16}, interrupt)  # four lanes are two rounds: in the fifth step, and after step 3 in the seventh
    at = tmp_path / "shared"
    for ranks in (3, 2, 1):
        with pytest.raises(KeyboardInterrupt) if ranks > 1 else contextlib.nullcontext():
            go(at, *four, ranks=ranks, resume=ranks != 3)
    same(tmp_path / "alone", at)


@pytest.mark.slow
def test_ranks_share_the_steps_of_a_run_with_a_critic(go: Go, at_exchange: At, tmp_path: Path) -> None:
    """The critic is the first rank's: its bits, and those of the policy, are those of one process, whoever dies."""
    ppo = ("algorithm.type=ppo", "critic={mini_batches: 2, warmup_steps: 1}", "steps=5", "model.dtype=bfloat16")
    go(tmp_path / "alone", *ppo)
    at_exchange({3}, lambda: os.kill(rank_process(1), signal.SIGKILL))
    go(tmp_path / "shared", *ppo, ranks=2)
    same(tmp_path / "alone", tmp_path / "shared")
    one, two = (RunFolder.open(tmp_path / name).latest_checkpoint() for name in ("alone", "shared"))
    assert one is not None
    assert two is not None
    for file in ("critic.safetensors", "critic_advantages.safetensors"):
        assert (one[1] / file).read_bytes() == (two[1] / file).read_bytes()


def test_ranks_that_are_lost_again_and_again_stop_the_run(tmp_path: Path) -> None:
    notes: list[str] = []
    attempts: list[bool] = []

    def attempt(resume: bool) -> None:
        attempts.append(resume)
        if len(attempts) == 2:
            (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
        raise RankLost("trainer rank 1 ended")

    with pytest.raises(RankLost, match=r"3 times without a new checkpoint.*--resume"):
        until_done(attempt, False, tmp_path, notes.append)
    assert attempts == [False, True, True, True]
    assert [event["cause"] for event in losses(tmp_path)] == ["trainer rank 1 ended"] * 4
    assert len(notes) == 3
