"""A local OpenAI-compatible server that does what it is told, one behaviour after another."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789"


class Misbehaving:
    """`plan` holds what the next requests get; when it is used up, `reply`."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.reply = "It agrees with the reference.\nScore: 8"
        self.delay = 0.0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self.models_status = 200
        self._now = 0
        self._lock = threading.Lock()
        self.url = ""

    def next(self, body: dict[str, Any], headers: dict[str, str]) -> Any:
        """Record a request and say what it gets."""
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            return self.plan.pop(0) if self.plan else self.reply

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count how many requests are served at once."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


def completion(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"total_tokens": 100}}).encode()


class _Handler(BaseHTTPRequestHandler):
    state: Misbehaving
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._send(self.state.models_status, b'{"data": []}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        what = self.state.next(body, dict(self.headers.items()))
        with self.state.counted():
            time.sleep(self.state.delay)
            self._do(what)

    def _do(self, what: Any) -> None:
        if isinstance(what, str):
            self._send(200, completion(what))
        elif isinstance(what, bytes):
            self._send(200, what)
        elif what == "hang up" or what is None:
            self.close_connection = True
        elif isinstance(what, tuple) and what[0] == "cut off":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif isinstance(what, tuple) and what[0] == "slow":
            time.sleep(what[1])
            self._send(200, completion(self.state.reply))
        elif isinstance(what, tuple) and what[0] == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(what[1]):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)
            self.close_connection = True
        else:
            status, headers = what
            self._send(status, b'{"error": "key ' + KEY.encode() + b' said no"}', headers)

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what is tested."""


@contextlib.contextmanager
def misbehaving_server() -> Iterator[Misbehaving]:
    """The server on a free port of 127.0.0.1."""
    state = Misbehaving()
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Quiet(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
