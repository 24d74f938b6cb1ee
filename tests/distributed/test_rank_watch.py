"""Who is named where ranks end."""

from __future__ import annotations

import dataclasses

import pytest

from rethink.distributed.rank_launch import RankProcesses
from rethink.distributed.rank_nodes import RankNodes
from rethink.distributed.rank_process import RankSpec
from rethink.distributed.rank_watch import End, RankWatch
from rethink.errors import RankLost, UsageError


def watch(*ends: tuple[int, End]) -> RankWatch:
    found = RankWatch(range(1, 4), cause_seconds=0.01)
    for rank, end in ends:
        found._ended(rank, end)
    return found


def test_the_cause_is_named_not_who_ended_since_another_did() -> None:
    ends = (1, End("ended with exit code 75", primary=False)), (2, End("was ended by SIGKILL"))
    error = watch(*ends).lost(1, "a gradient")
    assert isinstance(error, RankLost)
    assert str(error) == "trainer rank 2 was ended by SIGKILL, while rank 0 waited for a gradient"
    assert "connection to trainer rank 3 broke" in str(watch().lost(3, "a gradient"))
    assert "rank 1 ended with exit code 75" in str(watch(ends[0]).lost(2, "a gradient"))


def test_a_machine_that_cannot_serve_the_run_is_no_loss() -> None:
    """Ranks that are lost are started again; one that is refused would be refused again."""
    with pytest.raises(UsageError, match=r"^trainer rank 2 is refused"):
        watch((2, End("is refused", refused=True))).wait_ready(9)


def test_a_rank_that_is_too_slow_is_named() -> None:
    found = watch()
    found._is_ready(1)
    with pytest.raises(RankLost, match="rank 2 has not loaded the model within 0 s"):
        found.wait_ready(0.0)
    found._is_ready(2)
    found._is_ready(3)
    found.wait_ready(0.0)


@pytest.mark.parametrize("early", [True, False])
def test_waits_are_broken_whenever_the_end_was_told(early: bool) -> None:
    cut: list[int] = []
    found = watch(*([(1, End("was ended by SIGKILL"))] if early else []))
    found.severed_by(lambda: cut.append(1))
    assert bool(cut) == early


def test_a_process_that_would_compute_other_bits_is_refused() -> None:
    spec = RankSpec(1, 2, "", "127.0.0.1", "", "", None, {}, 1, 64, "replicated", False, {"kernels": "other"})
    processes = RankProcesses([spec], hang_seconds=9)
    try:
        with pytest.raises(UsageError, match=r"rank 1 is refused.*kernels: .*, and other on the driver's.*bits: any"):
            processes.wait_ready(60)
    finally:
        processes.close()


def test_what_a_node_says_is_taken_over() -> None:
    found = RankNodes.__new__(RankNodes)
    RankWatch.__init__(found, range(1, 3), 0.01)
    found._take(({1}, {2: End("is lost with its node")}))
    assert (found.ready, list(found.ends)) == ({1}, [2])
    found._take(RankLost("its control service does not answer"))
    assert dataclasses.asdict(found.ends[1])["cause"] == (
        "is watched no more: Ray ended (its control service does not answer)"
    )
