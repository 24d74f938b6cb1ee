"""Replies are graded in threads while the model goes on, kept in the calling thread, and not lost on a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rethink.eval.backend import Reply
from rethink.eval.benchmark import Grader, Verdict
from rethink.eval.grading.during_generation import Judging

PATIENCE = 60.0
"""Seconds that a test waits for a thread; a busy machine is slow."""


def grader(threads: bool = False) -> Grader:
    return Grader("any", lambda *_: Verdict(None, 0.0), None, threads=threads)


def reply(text: str = "") -> Reply:
    return Reply(text, 1, "stop", 0.0)


@pytest.fixture
def kept() -> list[tuple[Any, int]]:
    """(what was kept, by which thread)."""
    return []


@pytest.fixture
def keep(kept: list[tuple[Any, int]]) -> Callable[[Any, float], None]:
    return lambda sample, _: kept.append((sample, threading.get_ident()))


def test_the_model_goes_on_while_a_grader_hangs(kept: Any, keep: Any) -> None:
    free = threading.Event()

    def judged(number: int, which: int, given: Reply) -> Any:
        assert number != 0 or free.wait(PATIENCE)
        return (number, which, given.text)

    with Judging(grader(), judged, keep) as judging:
        take = judging.takes([(0, [3]), (1, [0, 5])])
        take(0, 0, reply("a"))
        take(1, 1, reply("b"))  # comes although the first is not judged yet
        assert kept == []
        free.set()
    me = threading.get_ident()
    assert sorted(kept) == [((0, 3, "a"), me), ((1, 5, "b"), me)]


def test_several_threads_only_where_the_grader_allows(keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.eval.grading.during_generation.os.sched_getaffinity", lambda _: {0, 1, 2})
    for allowed, wanted in ((True, 3), (False, 1)):
        together = threading.Barrier(wanted)
        used = set()

        def judged(*_: Any, together: threading.Barrier = together, used: set[int] = used) -> Any:
            used.add(threading.get_ident())
            together.wait(PATIENCE)

        with Judging(grader(allowed), judged, keep) as judging:
            take = judging.takes([(i, [0]) for i in range(3)])
            for i in range(3):
                take(i, 0, reply())
        assert len(used) == wanted


def test_the_model_waits_where_graders_fall_behind(kept: Any, keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.eval.grading.during_generation.MOST_OPEN", 2)

    def judged(number: int, *_: Any) -> Any:
        time.sleep(0.02)
        return number

    with Judging(grader(), judged, keep) as judging:
        take = judging.takes([(i, [0]) for i in range(9)])
        for i in range(9):
            take(i, 0, reply())
            assert len(kept) >= i  # at most one is open when the model goes on
    assert [number for number, _ in kept] == list(range(9))


def test_what_was_drawn_is_kept_when_the_model_breaks(kept: Any, keep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()

    def judged(number: int, *_: Any) -> Any:
        return number if number < 2 else hang.wait(PATIENCE)

    monkeypatch.setattr("rethink.eval.grading.during_generation.GRACE", 2.0)
    with pytest.raises(KeyboardInterrupt), Judging(grader(), judged, keep) as judging:  # noqa: PT012
        take = judging.takes([(i, [0]) for i in range(4)])
        for i in range(4):
            take(i, 0, reply())
        raise KeyboardInterrupt
    hang.set()
    assert [number for number, _ in kept] == [0, 1]  # the third hangs, the fourth waits behind it: drawn again


def test_an_error_of_the_judge_ends_the_evaluation(keep: Any) -> None:
    def judged(*_: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Judging(grader(), judged, keep) as judging:
        judging.takes([(0, [0])])(0, 0, reply())
