"""64 clients at once, with some that go away and some that send nonsense: nothing is lost, nothing is left behind."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from rethink.serve.app import Service
from tests.serve.conftest import live_server
from tests.serve.load import Load, open_files, settles


@pytest.mark.parametrize("seconds", [5, pytest.param(120, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_nothing_is_lost_and_nothing_is_left(make: Callable[..., Service], seconds: int) -> None:
    # Pages for few sequences of full length, so that some must wait; a queue that overflows now and then.
    service = make(max_concurrent=24, max_queue=60, kv_budget=1 << 20)
    with live_server(service) as live:
        load = Load(live, 64, seconds)
        assert settles(live.idle)
        files, threads, tasks = open_files(), threading.active_count(), tasks_of(service)
        load.run()
        print(dict(load.outcomes))
        assert not load.problems, load.problems[:5]
        assert settles(live.idle), service.engine.counts()
        # Threads that tokenise stay, a few at most.
        assert settles(lambda: open_files() <= files + 2), (files, open_files())
        assert settles(lambda: tasks_of(service) <= tasks), tasks_of(service)
        assert threading.active_count() <= threads + 10
        assert {"whole", "stream", "left a stream", "left", "nonsense", "scored"} <= set(load.outcomes)
        again = Load(live, 1, 0)
        assert {s: a["choices"] for s, a in again.expected.items()} == {
            s: a["choices"] for s, a in load.expected.items()
        }


def tasks_of(service: Service) -> int:
    """Tasks of the server's event loop."""
    loop = service.engine._loop
    assert loop is not None
    return len(asyncio.all_tasks(loop))
