"""Workers that Ray starts and that are refused or lost, by a Ray that only answers."""

from __future__ import annotations

import socket
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


class ActorDied(OSError):
    """As Ray 2.60 says it."""


@pytest.mark.parametrize(
    ("host", "kills", "cause"),
    [
        (socket.gethostname(), [3, 3], "its process was killed, not for want of memory, or crashed"),
        (socket.gethostname(), [3, 4], "the system killed a process, this one it seems, because memory was short"),
        ("far", [3, 4], "its process was killed, for want of memory perhaps, or crashed"),
    ],
)
def test_a_worker_that_dies_has_a_cause(
    monkeypatch: pytest.MonkeyPatch, host: str, kills: list[int], cause: str
) -> None:
    monkeypatch.setattr(ray_workers, "oom_kills", lambda: kills.pop(0))
    made, _ = workers(monkeypatch, "same", *[{"probe": "a", "host": host, "pid": "0"}] * 2)
    first, _ = made.receive(0.0)
    assert isinstance(first, Joined)
    died = ActorDied(f"The actor died unexpectedly.\n\tpid: 9\nThe actor is dead because {ray_workers.DIED}. And so on")
    assert made._cause(made.slots[0], died) == cause
    gone = ActorDied(f"The actor died because {ray_workers.NODE_DIED}. Node Id: 7")
    assert made._cause(made.slots[0], gone) == "its machine did not answer, or Ray ended there"


def test_other_causes_are_those_of_ray() -> None:
    died = ActorDied("The actor died unexpectedly.\n\tpid: 9\nIt was preempted.\nMore")
    assert ray_workers.short(died) == "ActorDied: It was preempted."
    assert ray_workers.short(ValueError("a\nb")) == "ValueError: a"


def test_any_bits_are_taken_where_the_cluster_file_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free, notes = workers(monkeypatch, "any", {"probe": "b"}, {"probe": "c"})
    assert [type(event) for event in free.receive(0.0)] == [Joined, Joined]
    assert not notes
