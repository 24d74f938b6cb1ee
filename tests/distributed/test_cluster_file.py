"""What `--cluster` may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.distributed.cluster import read_cluster
from rethink.errors import UsageError


@pytest.mark.parametrize(
    ("said", "workers", "ranks"),
    [("local", 2, 1), ("local:3", 3, 1), ("local:2,ranks=4", 2, 4), ("local:0,ranks=2", 0, 2), ("local,ranks=2", 2, 2)],
)
def test_the_short_forms(said: str, workers: int, ranks: int) -> None:
    found = read_cluster(said)
    assert (found.workers, found.ranks) == (workers, ranks)


@pytest.mark.parametrize("said", ["local:0", "local:0,ranks=1"])
def test_a_cluster_without_work_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match=r"neither workers nor .* rank"):
        read_cluster(said)


@pytest.mark.parametrize("said", ["local:2,ranks=0", "local:2,ranks", "local:x", "no/such/file.yaml"])
def test_what_is_no_cluster_is_refused_with_what_is(said: str) -> None:
    with pytest.raises(UsageError, match="ranks=R"):
        read_cluster(said)


def test_a_key_that_is_none_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("gpus: 8\nworkers: 2\n")
    with pytest.raises(
        UsageError, match=r"`gpus` is not a key of this file\. The top-level keys are: address, workers,"
    ):
        read_cluster(str(path))


def test_a_file_without_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("workers: 0\n")
    with pytest.raises(UsageError, match="neither workers"):
        read_cluster(str(path))
    path.write_text("workers: 0\nranks: 2\nrank_threads: 1\n")
    assert read_cluster(str(path)).rank_threads == 1
