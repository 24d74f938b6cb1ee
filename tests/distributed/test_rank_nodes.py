"""Trainer ranks on a cluster of two nodes, which are two raylets of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from rethink.distributed.cluster import Cluster
from rethink.distributed.opening import on_cluster
from rethink.distributed.watch import Onlooker
from rethink.store.run_folder import RunFolder

from .conftest import At
from .test_ranks import same
from .test_shared_kinds import go, recipe_file

__all__ = ["recipe_file"]
pytest.importorskip("ray", reason="the extra `ray` is not installed")


def ours(program: str) -> dict[int, list[str]]:
    """Process id and words of each process of this test's Ray that runs a program or module."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                about = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                if f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}" in about and any(w.endswith(program) for w in words):
                    found[int(folder.name)] = words
    return found


def end_a_node() -> None:
    """End the raylet that is not the head's, and wait until the rank there is gone too."""
    assert len(ours("rank_process")) == 2
    (other,) = [process for process, words in ours("/raylet").items() if "--head" not in words]
    os.kill(other, signal.SIGKILL)
    for _ in range(300):
        if len(ours("rank_process")) == 1:
            return
        time.sleep(0.2)
    raise AssertionError("its rank goes on")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe_file", ["sft"], indirect=True)
def test_nodes_give_the_bits_of_one_process_and_one_that_ends_is_named(
    recipe_file: Path, two_nodes: str, at_exchange: At, tmp_path: Path
) -> None:
    go(recipe_file, tmp_path / "alone")
    cluster = Cluster(address=two_nodes, workers=0, ranks=3, rank_threads=1, hang_seconds=8)
    with on_cluster(cluster, Onlooker(print)):
        assert go(recipe_file, tmp_path / "shared") == []
        at_exchange({3}, end_a_node)
        (note,) = go(recipe_file, tmp_path / "again")
    assert "trainer rank" in note
    assert "while rank 0 waited for" in note
    for name in ("shared", "again"):
        same(tmp_path / "alone", tmp_path / name)
        assert RunFolder.open(tmp_path / name).choices["threads"] == 1
