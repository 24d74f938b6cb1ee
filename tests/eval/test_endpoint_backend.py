"""The endpoint backend against a small server: requests, thoughts, refusals, and a server that dies half-way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import EngineFailure, UsageError
from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.eval.benchmarks.prompting import prompt_section
from rethink.eval.endpoint_backend import EndpointBackend
from rethink.eval.sample_files import SampleStore
from rethink.types import Problem

Answer = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]


class Server:
    """Answers by a function of path and body, and keeps what it was asked."""

    def __init__(self, answer: Answer):
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.asked.append((self.path, body, self.headers.get("authorization", "")))
                status, value = server.answer(self.path, body)
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    monkeypatch.setattr("rethink.eval.endpoint_backend.ATTEMPTS", 1)
    monkeypatch.setenv("RETHINK_API_KEY", "secret-key")
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def chat(text: str, tokens: int = 5, finish: str = "stop", **message: Any) -> tuple[int, dict[str, Any]]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


def load(server: Server) -> Callable[..., EndpointBackend]:
    return lambda model, _: EndpointBackend(model, server.url)


def test_a_hosted_model_is_measured_by_the_same_code(serve: Any, evaluate: Any, tmp_path: Path) -> None:
    def answer(_: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = body["messages"][-1]["content"].split()[2]
        return chat(f"\\boxed{{{number if number != '3' else 'x'}}}", tokens=int(number) + 1)

    server = serve(answer)
    (measured,) = evaluate(load(server), k=2, temperature=0.5, max_new_tokens=77)
    row = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["gsm8k"]
    assert (row["pass@1"], row["cons@k"], row["length_mean"]) == (0.75, 0.75, 2.5)
    bodies = [body for _, body, _ in server.asked]
    assert len(bodies) == 8
    assert len({body["seed"] for body in bodies}) == 8
    wanted = {"model": "m", "temperature": 0.5, "top_p": 0.95, "max_tokens": 77, "n": 1}
    assert all(wanted.items() <= body.items() for body in bodies)
    assert {key for _, _, key in server.asked} == {"Bearer secret-key"}
    assert "secret-key" not in "".join(p.read_text("utf-8") for p in (tmp_path / "out").glob("*.json"))
    assert measured.plans[0].limited_by == "asked"


def test_thoughts_and_truncation(serve: Any, evaluate: Any, tmp_path: Path) -> None:
    def answer(_: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "What is 0" in body["messages"][-1]["content"]:
            return chat("", finish="length", reasoning_content="\\boxed{0} perhaps")
        return chat("\\boxed{1}", reasoning_content="\\boxed{7}?")

    evaluate(load(serve(answer)), limit=2)
    samples = {s.problem_id: s for s in SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()}
    assert (samples["p0"].answer, samples["p0"].finish_reason) == (None, "length")  # the thought never ended
    assert (samples["p1"].answer, samples["p1"].score) == ("1", 1.0)


def test_few_shot_goes_as_turns_and_the_r1_template_as_text(serve: Any, evaluate: Any, tmp_path: Path) -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path.endswith("/chat/completions"):
            return chat("\\boxed{1}")
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "text": " <think> a </think> <answer>1</answer>",
            "logprobs": None,
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        return 200, {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }

    server = serve(answer)
    measured = evaluate(load(server), prompting="all", limit=2)
    assert [m.results[0].pass_1 for m in measured] == [0.5] * 5
    roles = [
        [m["role"] for m in body["messages"]] for path, body, _ in server.asked if path.endswith("/chat/completions")
    ]
    assert ["user", "assistant"] * 4 + ["user"] in roles
    (text, *_) = [body["prompt"] for path, body, _ in server.asked if path == "/v1/completions"]
    assert text.startswith("A conversation between User and Assistant.")
    assert "User: What is" in text
    assert {tuple(body.get("stop", ())) for path, body, _ in server.asked if path == "/v1/completions"} == {
        ("\nUser:",)
    }
    assert all("stop" not in body for path, body, _ in server.asked if path.endswith("/chat/completions"))


def test_an_endpoint_that_dies_half_way_resumes(serve: Any, evaluate: Any, tmp_path: Path) -> None:
    alive = [True]

    def answer(_: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "What is 2" in body["messages"][-1]["content"] and alive[0]:
            return 503, {"error": {"message": "down"}}
        return chat("\\boxed{1}")

    server = serve(answer)
    with pytest.raises(
        EngineFailure, match=r"stopped answering after \d of the 4 .*What came is kept: the same command"
    ):
        evaluate(load(server))
    kept = len(SampleStore(tmp_path / "out" / "samples" / "gsm8k").read())
    alive[0] = False
    before = len(server.asked)
    evaluate(load(server))
    assert len(server.asked) - before == 4 - kept
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["gsm8k"]["n"] == 4


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses the key.*RETHINK_API_KEY"),
        (404, "does not know the model 'm'"),
        (400, "refuses the request.*too big.*--max-new-tokens"),
    ],
)
def test_refusals_are_explained(serve: Any, evaluate: Any, status: int, message: str) -> None:
    server = serve(lambda *_: (status, {"error": {"message": "too big"}}))
    with pytest.raises(UsageError, match=message) as caught:
        evaluate(load(server))
    assert "secret-key" not in str(caught.value)


USABLE = {"message": {"content": "\\boxed{1}"}, "finish_reason": "stop"}


@pytest.mark.parametrize(("choices", "said"), [([USABLE], "without usage"), ([], "is not a chat completion")])
def test_answers_without_usage_or_choices(serve: Any, evaluate: Any, choices: list[Any], said: str) -> None:
    server = serve(lambda *_: (200, {"choices": choices}))
    with pytest.raises(EngineFailure, match=said):
        evaluate(load(server))


def test_nobody_listens(evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.eval.endpoint_backend.ATTEMPTS", 1)
    with pytest.raises(EngineFailure, match="stopped answering after 0 of"):
        evaluate(lambda model, _: EndpointBackend(model, "http://127.0.0.1:9/v1"))
    with pytest.raises(UsageError, match="is no URL"):
        EndpointBackend("m", "localhost:8000")


def test_questions() -> None:
    backend = EndpointBackend("m", "http://127.0.0.1:9/v1")
    problem = Problem("p", "gsm8k", "What {is} it?", "1")
    asked = backend.question(prompt_section(find_benchmark("gsm8k"), "default"), problem)
    assert asked.messages[0]["content"].startswith("What {is} it?\nPlease reason")
    assert json.loads(asked.text) == list(asked.messages)
