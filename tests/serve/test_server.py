"""From options to a server."""

from __future__ import annotations

import threading

import pytest

from rethink.serve import server
from rethink.serve.server import ServeOptions, serve


def test_loading_leaves_no_thread_that_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's helpers live as long as the thread they belong to, and slow the engine's down."""
    loaded_by: list[threading.Thread] = []
    alive: list[bool] = []
    monkeypatch.setattr(server, "build_app", lambda _: loaded_by.append(threading.current_thread()))
    monkeypatch.setattr(server, "run_server", lambda *_: alive.append(loaded_by[0].is_alive()))
    serve(ServeOptions(model="embedded", port=0), lambda _: None)
    assert loaded_by[0] is not threading.main_thread()
    assert alive == [False]
