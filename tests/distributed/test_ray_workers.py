"""Workers that Ray starts and that are refused or lost, by a Ray that only answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rethink.distributed import ray_workers
from rethink.distributed.cluster import Cluster
from rethink.distributed.protocol import Hello
from rethink.distributed.ray_workers import RayWorkers
from rethink.distributed.transport import Joined, Lost, WorkersRefused


class FakeRay:
    """Every worker says `facts`, at once."""

    def __init__(self, *facts: dict[str, str]) -> None:
        self.facts = list(facts)
        self.exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=OSError)

    def remote(self, _: Any) -> FakeRay:
        return self

    def options(self, **options: Any) -> FakeRay:
        self.name = options["runtime_env"]["env_vars"]["RETHINK_WORKER"]
        return self

    def get(self, call: Hello) -> Hello:
        return call

    def wait(self, calls: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return calls, []

    def kill(self, *_: Any, **__: Any) -> None:
        pass


def workers(monkeypatch: pytest.MonkeyPatch, bits: str, *facts: dict[str, str]) -> tuple[RayWorkers, list[str]]:
    class Hellos(Hello):
        __hash__ = object.__hash__  # a call

    class Ray(FakeRay):
        def remote(self, *given: Any) -> Any:
            if len(given) == 1:
                return self
            said = Hellos(self.name, self.facts.pop(0))
            return SimpleNamespace(hello=SimpleNamespace(remote=lambda: said))

    ray = Ray(*facts)
    monkeypatch.setattr(ray_workers, "ray_module", lambda: ray)
    cluster = Cluster.model_validate({"workers": 2, "bits": bits})
    notes: list[str] = []
    return RayWorkers(cluster, None, {"probe": "a"}, notes.append), notes  # type: ignore[arg-type]


def test_workers_that_would_all_differ_end_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused, notes = workers(monkeypatch, "same", {"probe": "b"}, {"probe": "b", "host": "far"})
    with pytest.raises(WorkersRefused, match=r"all rollout workers are refused.*probe is b on far, and a here"):
        refused.receive(0.0)
    assert len(notes) == 2


def test_one_that_differs_is_refused_and_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    some, _ = workers(monkeypatch, "same", {"probe": "b"}, {"probe": "a"})
    assert {type(event) for event in some.receive(0.0)} == {Joined, Lost}


def test_any_bits_are_taken_where_the_cluster_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free, notes = workers(monkeypatch, "any", {"probe": "b"}, {"probe": "c"})
    assert [type(event) for event in free.receive(0.0)] == [Joined, Joined]
    assert not notes
