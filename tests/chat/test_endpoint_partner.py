"""A streaming endpoint as a partner: thoughts in a field of their own, silence, refusals and a connection that dies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rethink.chat.endpoint_partner import EndpointChat
from rethink.chat.partner import Settings, TooLong
from rethink.errors import EngineFailure, UsageError

Deltas = list[dict[str, Any]]
HELLO = [{"role": "user", "content": "hello"}]


class Server:
    """Streams the deltas it is given, or answers with an error."""

    def __init__(self) -> None:
        self.deltas: Deltas = []
        self.finish: str | None = "stop"
        self.refusal: tuple[int, str] | None = None
        self.silent = threading.Event()
        self.silent.set()
        self.asked: list[tuple[dict[str, Any], str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.asked.append((body, self.headers.get("authorization", "")))
                if server.refusal is not None:
                    status, said = server.refusal
                    data = json.dumps({"error": {"message": said}}).encode()
                    self.send_response(status)
                    self.send_header("content-length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for delta in server.deltas:
                    self.event(delta, None)
                server.silent.wait(60)
                if server.finish is not None:
                    self.event({}, server.finish)
                    self.wfile.write(b"data: [DONE]\n\n")

            def event(self, delta: dict[str, Any], finish: str | None) -> None:
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.silent.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("rethink.chat.endpoint_partner.ATTEMPTS", 1)
    monkeypatch.setenv("RETHINK_API_KEY", "secret-key")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.close()


def never() -> bool:
    return False


def ask(server: Server, settings: Settings | None = None, stopped: Callable[[], bool] = never) -> tuple[str, Any]:
    pieces: list[str] = []
    chat = EndpointChat("m", server.url)
    ended = chat.answer(HELLO, settings or Settings(), 7, pieces.append, stopped)
    return "".join(pieces), ended


def test_text_comes_in_pieces_and_the_request_says_how(server: Server) -> None:
    server.deltas = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}]
    assert ask(server, Settings(0.5, 0.9, 0, 99))[0] == "Hello"
    body, key = server.asked[0]
    assert key == "Bearer secret-key"
    assert body == {
        "model": "m", "messages": HELLO, "temperature": 0.5, "top_p": 0.9, "max_tokens": 99, "seed": 7, "stream": True
    }  # fmt: skip
    ask(server, Settings(top_k=5))
    assert server.asked[1][0]["top_k"] == 5


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_of_their_own_field_come_between_tags(server: Server, field: str) -> None:
    server.deltas = [{field: "so "}, {field: "so"}, {"content": "4"}, {"content": "2"}]
    assert ask(server)[0] == "<think>\nso so\n</think>\n\n42"


def test_an_answer_at_the_limit_says_so(server: Server) -> None:
    server.deltas, server.finish = [{"content": "x"}], "length"
    assert ask(server)[1].how == "length"


def test_a_silent_endpoint_is_left_at_once(server: Server) -> None:
    server.deltas = [{"content": "begun"}]
    server.silent.clear()
    begun = time.monotonic()
    seen: list[str] = []
    ended = EndpointChat("m", server.url).answer(HELLO, Settings(), 0, seen.append, lambda: bool(seen))
    assert (seen, ended.how) == (["begun"], "stopped")
    assert time.monotonic() - begun < 30  # the server would be silent for twice as long


@pytest.mark.parametrize(
    ("refusal", "error", "said"),
    [
        ((401, "bad key"), UsageError, "RETHINK_API_KEY"),
        ((404, "no model"), UsageError, "does not know the model 'm'"),
        ((400, "This model's maximum context length is 10 tokens"), TooLong, "too long"),
        ((400, "top_p is odd"), UsageError, "/set"),
        ((500, "boom"), EngineFailure, "/retry"),
        ((400, "\x1b]0;OWNED\x07"), UsageError, "OWNED"),
    ],
)
def test_refusals_are_explained(server: Server, refusal: tuple[int, str], error: type[Exception], said: str) -> None:
    server.refusal = refusal
    with pytest.raises(error, match=said) as caught:
        ask(server)
    assert "secret-key" not in str(caught.value)


def test_a_stream_that_dies_is_a_failure(server: Server) -> None:
    server.deltas, server.finish = [{"content": "half"}], None
    with pytest.raises(EngineFailure, match="did not answer to the end"):
        ask(server)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(UsageError, match="is no URL"):
        EndpointChat("m", "localhost:8000")
