"""Hundreds of connections that say little or nothing, and clients that leave: others are answered, nothing is left."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import urllib.parse
from collections.abc import Callable, Iterator

import psutil
import pytest

from rethink.serve import connection
from rethink.serve.app import Service
from tests.serve.conftest import MODEL, Live, live_server
from tests.serve.load import LONGEST_SECONDS, Load, open_files, settles

BODY = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 200, "seed": 1, "stream": True}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
SLOW = {
    "silent": b"",
    "headers that do not end": HEAD % len(BODY) + b"X: y",
    "a body that does not end": HEAD % len(BODY) + b"\r\n" + BODY[:-1],
    "a body that does not begin": HEAD % (1 << 20) + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.fixture(autouse=True)
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def attack(live: Live, number: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Connections that wait, and as many streams that are left at once."""
    place = urllib.parse.urlsplit(live.url)
    address = (str(place.hostname), int(place.port or 0))
    held = []
    for i in range(number):
        slow = stack.enter_context(socket.create_connection(address, LONGEST_SECONDS))
        slow.sendall(list(SLOW.values())[i % len(SLOW)])
        held.append(slow)
        with socket.create_connection(address, LONGEST_SECONDS) as left:
            left.sendall(HEAD % len(BODY) + b"\r\n" + BODY)
    return held


@pytest.mark.parametrize("number", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_slow_connections_and_cancellations(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    service = make(max_concurrent=24, max_queue=number, kv_budget=1 << 20)
    with live_server(service) as live:
        before = Load(live, 1, 0).expected
        assert settles(live.idle)
        files, memory = open_files(), psutil.Process().memory_info().rss
        for _ in range(2):
            monkeypatch.setattr(connection, "HEADER_SECONDS", 600.0)
            monkeypatch.setattr(connection, "BODY_SECONDS", 600.0)
            with contextlib.ExitStack() as stack:
                attack(live, number, stack)
                assert settles(live.idle), service.engine.counts()
                during = Load(live, 1, 0).expected
            monkeypatch.setattr(connection, "HEADER_SECONDS", 0.1)
            monkeypatch.setattr(connection, "BODY_SECONDS", 0.1)
            with contextlib.ExitStack() as stack:
                for slow in attack(live, number, stack):
                    said = b""
                    with contextlib.suppress(ConnectionResetError):
                        while piece := slow.recv(1 << 16):
                            said += piece
                    # Bodies are told why; where no request has begun, or none of HTTP, the connection just ends.
                    assert not said or said.split()[1] in (b"408", b"400"), said
            assert settles(live.idle), service.engine.counts()
            assert settles(lambda: open_files() <= files + 2), (files, open_files())
            monkeypatch.undo()
            choices = [{s: a["choices"] for s, a in of.items()} for of in (before, during, Load(live, 1, 0).expected)]
            assert choices[0] == choices[1] == choices[2]
        assert psutil.Process().memory_info().rss - memory < 64 << 20


def test_bodies_of_all_requests_together_are_bounded(
    make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST_HELD_BYTES", 100_000)
    with live_server(make()) as live, contextlib.ExitStack() as stack:
        place = urllib.parse.urlsplit(live.url)
        address = (str(place.hostname), int(place.port or 0))
        said = []
        for _ in range(3):
            one = stack.enter_context(socket.create_connection(address, LONGEST_SECONDS))
            one.sendall(HEAD % 60_000 + b"\r\n" + b" " * 45_000)
            said.append(one)
        answered, _, _ = select.select(said, [], [], LONGEST_SECONDS)
        assert [one.recv(100).split()[1] for one in answered] == [b"429"]
