"""What is told of workers: rates, idle time, who is late, what was lost."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from rethink.distributed.pool import Pool, Timing
from rethink.distributed.pool_engine import PoolEngine
from rethink.distributed.protocol import Hello, Report
from rethink.distributed.rollout_worker import RolloutWorker
from rethink.distributed.transport import Event, Joined, Lost, Stacks
from rethink.distributed.watch import Onlooker, Seen, Watch, place_of
from rethink.observe.glossary import GLOSSARY
from rethink.observe.live import MOST_WORKERS, workers_table
from rethink.observe.report.sections import lost_workers
from rethink.store.cluster_log import NAME, add_event, events

from .test_pool import REQUEST, orders, pool_of


def tell(pool: Pool, name: str, tokens: int, now: float) -> None:
    """A worker that draws all it has been given."""
    worker = pool.workers[name]
    held = frozenset(worker.assigned)
    pool.reported(name, Report(pool.session, worker.number, 0, held, frozenset(), (), tokens), now)


def test_rates_and_idle_time_are_those_of_the_time_since_the_last_row() -> None:
    pool, watch = pool_of("a", "b", "c"), Watch()
    watch.look(pool, 0.0)
    pool.submit(REQUEST)  # four samples: two for a, two for b
    watch.look(pool, 10.0)
    assert watch.metrics() == {"cluster/queue": 4, "cluster/idle": 1.0}
    for name in "abc":
        tell(pool, name, 0, 10.0)  # each is heard, so that none is late
    orders(pool, 10.0)
    for name, tokens in (("a", 400), ("b", 100)):
        tell(pool, name, tokens, 14.0)
    watch.look(pool, 14.0)
    pool.cancel(1)
    watch.look(pool, 18.0)
    found = watch.metrics()
    assert found == {
        "cluster/queue": 0,
        "cluster/idle": pytest.approx(2 / 3),
        "cluster/tokens_per_s_min": 25.0,
        "cluster/tokens_per_s_median": 62.5,
    }
    assert set(found) <= set(GLOSSARY)


def test_the_view_names_who_is_late() -> None:
    pool, watch = pool_of("a", "b"), Watch()
    pool.submit(REQUEST)
    orders(pool, 0.0)
    watch.seen(pool, 0.0)
    tell(pool, "b", 50, 6.0)
    a, b = watch.seen(pool, 6.0)
    assert (a.name, a.held, a.late, a.tokens_per_s) == ("a", 2, 6.0, None)
    assert (b.late, b.tokens_per_s) == (None, pytest.approx(50 / 6))
    assert pool.stalled(6.0) == ["a"]
    tell(pool, "a", 0, 20.0)
    tell(pool, "b", 90, 40.0)
    assert pool.stalled(40.0) == ["a"], "it reports and comes no further"
    rows = [{"name": f"w{i}", "host": "h", "held": 1, "done": 0, "tokens_per_s": None, "late": None} for i in range(9)]
    rows[8]["late"] = 7.0
    console = Console(file=io.StringIO(), width=100)
    console.print(workers_table(rows))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1 + MOST_WORKERS + 1
    assert "w8" in lines[1]
    assert "silent for 7" in lines[1]
    assert "and 1 more" in lines[-1]


def test_a_worker_says_where_it_is() -> None:
    import threading

    worker = RolloutWorker("w", None, lambda _: None)  # type: ignore[arg-type]
    hold, held = threading.Event(), threading.Event()

    def turn(*_: Any) -> None:
        held.set()
        hold.wait()
        raise SystemExit  # else the thread would spin for as long as the tests run

    held_one = RolloutWorker.__new__(RolloutWorker)
    held_one._changed = threading.Condition()
    held_one._load, held_one._turn = (lambda *_: None), turn  # type: ignore[method-assign,assignment,return-value]
    thread = threading.Thread(target=held_one._run, args=(None, None), daemon=True)
    thread.start()
    assert held.wait(10)
    place = place_of(worker.stacks())
    hold.set()
    thread.join(10)
    assert not thread.is_alive()
    assert "threading.py" in place, place
    assert place_of('Thread 1\n  File "x.py", line 3 in main\n') == "in no known place"


class Script:
    """A transport that tells what it is given."""

    stores = 1

    def __init__(self, *told: list[Event]) -> None:
        self.busy = set[str]()
        self.told, self.killed, self.asked = list(told), list[tuple[str, str]](), list[str]()

    def receive(self, _: float) -> list[Event]:
        return self.told.pop(0) if self.told else []

    def send(self, *_: Any) -> None: ...

    def kill(self, name: str, why: str) -> None:
        self.killed.append((name, why))

    def ask_stacks(self, name: str) -> None:
        self.asked.append(name)

    def close(self) -> None: ...


def engine_on(script: Script, onlooker: Onlooker, monkeypatch: pytest.MonkeyPatch) -> PoolEngine:
    monkeypatch.setattr(PoolEngine, "_carry", lambda _: None)  # the test carries
    local: Any = SimpleNamespace(context=64, dtype="float32")
    opened: Any = SimpleNamespace(model=None, engine=local)
    transport: Any = script
    return PoolEngine(transport, Timing(), opened, onlooker, exact_logprobs=False)


def test_what_is_lost_is_recorded_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    records: list[dict[str, Any]] = []
    shown: list[list[Seen]] = []
    script = Script(
        [Joined(Hello("a", {"host": "h"})), Joined(Hello("b", {"host": "k"}))],
        [Lost("a", "out of memory", "h"), Stacks("b", None)],
        [Joined(Hello("a.2", {}))],
    )
    onlooker = Onlooker(notes.append, lambda seen: shown.append(list(seen)), lambda event: records.append(dict(event)))
    engine = engine_on(script, onlooker, monkeypatch)
    engine.pool.publish(pool_of().weights[0])
    for _ in range(3):
        engine._carry_once()
    assert [(r["event"], r["worker"]) for r in records] == [("lost", "a"), ("late", "b")]
    assert (records[0]["cause"], records[0]["host"]) == ("out of memory", "h")
    assert notes == ["b is late and does not answer, so that it cannot be said what it does."]
    assert [seen.name for seen in shown[0]] == ["a", "b"]
    assert len(shown) == 1, "about once a second"
    found = engine.metrics()
    assert (found["cluster/lost"], found["cluster/restarts"]) == (1, 1)


def test_who_is_late_is_asked_once_and_given_up_with_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    records: list[dict[str, Any]] = []
    script = Script([Joined(Hello("a", {"host": "h"}))])
    engine = engine_on(script, Onlooker(lambda _: None, record=lambda e: records.append(dict(e))), monkeypatch)
    engine._clock = SimpleNamespace(now=lambda: clock[0], left_out=0.0)  # type: ignore[assignment]
    engine.pool.publish(pool_of().weights[0])
    engine.pool.submit(REQUEST)
    for now in (100.0, 106.0, 107.0, 111.0):
        clock[0] = now
        engine._carry_once()
    assert script.asked == ["a"]
    assert script.killed == [("a", "it did not answer for 10 s")]
    assert [(r["event"], r["host"], r["cause"]) for r in records] == [("lost", "h", "it did not answer for 10 s")]


def test_a_driver_that_was_stopped_gives_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [100.0]
    monkeypatch.setattr("rethink.distributed.clock.time", SimpleNamespace(monotonic=lambda: seconds[0]))
    notes: list[str] = []
    script = Script([Joined(Hello("a", {}))])
    engine = engine_on(script, Onlooker(notes.append), monkeypatch)
    engine.pool.publish(pool_of().weights[0])
    engine.pool.submit(REQUEST)
    for now in (100.0, 160.0, 161.0):  # stopped for a minute
        seconds[0] = now
        engine._carry_once()
    assert list(engine.pool.workers) == ["a"]
    assert notes == ["The run stood still for 58 s: its process was stopped, or the machine was."]


def test_the_record_is_read_back_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events(tmp_path) == []
    add_event(tmp_path, {"event": "lost", "worker": "a"})
    with (tmp_path / NAME).open("a") as file:
        file.write('{"event": "torn')
    assert events(tmp_path) == [{"event": "lost", "worker": "a"}]
    monkeypatch.setattr("rethink.store.cluster_log.MOST_BYTES", 10)
    add_event(tmp_path, {"event": "lost", "worker": "b"})
    assert len(events(tmp_path)) == 1
    add_event(tmp_path / "none", {"event": "lost"})


def test_the_report_names_the_cause() -> None:
    assert lost_workers({"cluster": []}) == ""
    shown = lost_workers({"cluster": [{"event": "lost", "worker": "a", "host": "h", "cause": "<b>killed</b>"}]})
    assert "1 lost" in shown
    assert "&lt;b&gt;killed" in shown
