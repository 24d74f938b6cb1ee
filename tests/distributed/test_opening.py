"""What a cluster keeps of engines that were opened on it."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.distributed import opening
from rethink.distributed.cluster import Cluster
from rethink.distributed.opening import on_cluster
from rethink.distributed.watch import Onlooker
from rethink.rollout.engines import open_engine


class Nobody:
    """A transport without workers."""

    stores = 1

    def __init__(self) -> None:
        self.busy: set[str] = set()
        self.closed = False

    def receive(self, seconds: float) -> list[object]:
        time.sleep(seconds)
        return []

    def close(self) -> None:
        self.closed = True


def test_a_closed_engine_is_let_go_and_an_open_one_is_closed(
    tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost rank the next attempt opens another engine, and loads the model once more."""
    transports: list[Nobody] = []
    monkeypatch.setattr(opening, "ray_module", lambda: None)
    monkeypatch.setattr(opening, "RayProcess", lambda *_: transports.append(Nobody()) or transports[-1])
    model = str(tiny_folder("llama"))
    with on_cluster(Cluster(workers=1), Onlooker(print)):
        first = open_engine(model).engine
        gone = weakref.ref(first)
        first.close()
        del first
        gc.collect()
        assert gone() is None
        open_engine(model)
        assert not transports[1].closed
    assert transports[1].closed
