"""The driver's side: shares, deadlines, and workers that do not do what they should."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rethink.distributed.pool import Pool, Timing
from rethink.distributed.protocol import Done, Hello, Key, Order, Report, Task, Weights
from rethink.distributed.worker_state import Worker
from rethink.errors import EngineFailure, UsageError
from rethink.types import Completion, GenerationRequest, SamplingParams

REQUEST = GenerationRequest((1, 2), (10, 11, 12, 13), SamplingParams(), version=0)
ONE = np.zeros(1, np.float32)


def completion(token: int = 7, version: int = 0) -> Completion:
    return Completion(np.array([token], np.int32), "", ONE, ONE, "stop", version=version)


def report(order: Order, *done: Done, held: frozenset[Key] = frozenset(), version: int = 0) -> Report:
    return Report(order.session, order.number, version, held, frozenset(), done, tokens=order.number)


def pool_of(*names: str, timing: Timing | None = None) -> Pool:
    pool = Pool("s", timing or Timing())
    pool.publish(Weights(0, "there", "sum"))
    for name in names:
        pool.joined(Hello(name, {}), 0.0)
    return pool


def orders(pool: Pool, now: float) -> dict[str, Order]:
    return dict(pool.poll(now)[0])


def test_samples_are_shared_out_evenly() -> None:
    pool = pool_of("a", "b")
    pool.submit(REQUEST)
    given = orders(pool, 0.0)
    assert {name: len(order.keep) for name, order in given.items()} == {"a": 2, "b": 2}
    assert given["a"].keep | given["b"].keep == {(1, sample) for sample in range(4)}
    assert given["a"].weights == (Weights(0, "there", "sum"),)


def test_a_sample_is_delivered_once_though_two_workers_draw_it() -> None:
    pool = pool_of("a", "b")
    task = pool.submit(dataclasses.replace(REQUEST, seeds=(10,)))
    (first,) = (n for n, order in orders(pool, 0.0).items() if order.keep)
    second = "b" if first == "a" else "a"
    late = pool.workers[first]
    assert pool.poll(11.0)[1] == [first, second]  # neither was heard for too long
    pool.joined(Hello("c", {}), 11.0)
    order = orders(pool, 11.0)["c"]
    assert order.keep == {(task, 0)}
    done = Done((task, 0), completion())
    pool.reported("c", report(order, done), 11.1)
    pool.reported("c", report(order, done), 11.2)
    pool.reported(first, Report("s", late.number, 0, frozenset(), frozenset(), (done,), 1), 11.3)
    assert [(key, sample) for key, sample, _ in pool.take()] == [(task, 0)]
    assert pool.outstanding == 0


def test_a_completion_of_another_version_is_asked_again() -> None:
    pool = pool_of("a")
    task = pool.submit(dataclasses.replace(REQUEST, seeds=(10,)))
    order = orders(pool, 0.0)["a"]
    pool.reported("a", report(order, Done((task, 0), completion(version=3)), version=3), 0.1)
    assert pool.take() == []
    assert pool.counts["wrong_version"] == 1
    again = orders(pool, 0.2)["a"]
    assert again.receipts == {(task, 0)}
    assert [t.samples for t in again.tasks] == [(0,)]
    pool.reported("a", report(again, Done((task, 0), completion())), 0.3)
    assert len(pool.take()) == 1


def test_what_ends_every_worker_ends_the_run_and_is_named() -> None:
    pool = pool_of(timing=Timing(attempts=3))
    pool.submit(dataclasses.replace(REQUEST, seeds=(10,)))
    for i in range(3):
        pool.joined(Hello(f"w{i}", {}), float(i))
        pool.poll(float(i))
        if i < 2:
            pool.lost(f"w{i}")
    with pytest.raises(EngineFailure, match="sample 0 of request 1 was held by 3 workers"):
        pool.lost("w2")


def test_nobody_is_waited_for_without_end() -> None:
    pool = pool_of(timing=Timing(without=30))
    pool.submit(REQUEST)
    pool.poll(0.0)
    assert [wait.who for wait in pool.waits(10.0)] == ["any rollout worker"]
    with pytest.raises(EngineFailure, match="no rollout worker for 30 s, and 4 samples are waited for"):
        pool.poll(31.0)


def test_a_worker_that_reports_but_draws_nothing_is_given_up() -> None:
    pool = pool_of("a", timing=Timing(stuck=60))
    task = pool.submit(dataclasses.replace(REQUEST, seeds=(10,)))
    for now in range(0, 61, 5):
        orders_, hung = pool.poll(float(now))
        assert not hung
        number = dict(orders_)["a"].number
        pool.reported("a", Report("s", number, 0, frozenset({(task, 0)}), frozenset(), (), tokens=5), float(now))
    assert pool.poll(66.0)[1] == ["a"]


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    pool = pool_of("a", "b")
    task = pool.submit(REQUEST)
    first = orders(pool, 0.0)["a"]
    second = orders(pool, 1.0)["a"]
    running = frozenset(first.keep)
    pool.reported("a", report(second, held=running), 1.1)
    old = Report("s", first.number, 0, frozenset(sorted(running)[:1]), frozenset(sorted(running)[1:]), (), 0)
    pool.reported("a", old, 1.2)
    b = orders(pool, 1.3)["b"]
    pool.reported("b", report(b, *(Done(key, completion()) for key in b.keep)), 1.35)
    assert not orders(pool, 1.6)["b"].keep, "a running sample was taken for one that waits"
    assert pool.outstanding == 2
    assert {key[0] for key in running} == {task}


def test_a_request_that_cannot_be_drawn_ends_the_run_with_the_reason() -> None:
    pool = pool_of("a")
    task = pool.submit(REQUEST)
    order = orders(pool, 0.0)["a"]
    said = dataclasses.replace(report(order), refused={task: "the prompt is too long"})
    with pytest.raises(EngineFailure, match="the prompt is too long"):
        pool.reported("a", said, 0.1)


def test_a_request_for_weights_that_are_not_published_is_refused() -> None:
    with pytest.raises(EngineFailure, match="version 5 of the weights is not published"):
        pool_of("a").submit(dataclasses.replace(REQUEST, version=5))


class Slow:
    """A `Drawer` that never ends a sample."""

    capacity = 2

    def __init__(self) -> None:
        self.running: list[Task] = []

    def load(self, weights: Weights) -> None:
        assert not self.running

    def start(self, task: Task) -> None:
        if not task.request.prompt_ids:
            raise UsageError("an empty prompt")
        self.running.append(task)

    def cancel(self, task: Task) -> None:
        self.running.remove(task)

    def step(self) -> list[tuple[Key, Completion]]:
        return []


def order(number: int, *tasks: Task, session: str = "s", keep: frozenset[Key] | None = None) -> Order:
    kept = frozenset(key for task in tasks for key in task.keys) if keep is None else keep
    return Order(session, number, (Weights(0, "", ""),), tasks, kept, frozenset())


def test_a_worker_starts_what_it_has_room_for() -> None:
    worker = Worker(Slow())
    worker.carry_out(order(1, Task(1, REQUEST, (0, 1)), Task(2, REQUEST, (0,))))
    worker.step()
    assert worker.report().running == {(1, 0), (1, 1)}
    assert worker.report().waiting == {(2, 0)}


def test_a_worker_ignores_an_order_of_before_and_obeys_another_driver() -> None:
    worker = Worker(drawer := Slow())
    worker.carry_out(order(2, Task(1, REQUEST, (0,))))
    worker.step()
    worker.carry_out(order(1, keep=frozenset()))
    assert worker.report().held == {(1, 0)}
    worker.carry_out(order(1, session="another", keep=frozenset()))
    assert worker.report().held == frozenset()
    assert drawer.running == []
    assert worker.report().version is None


def test_a_worker_says_what_it_cannot_draw() -> None:
    worker = Worker(Slow())
    worker.carry_out(order(1, Task(1, dataclasses.replace(REQUEST, prompt_ids=()), (0,))))
    worker.step()
    assert worker.report().refused == {1: "an empty prompt"}
