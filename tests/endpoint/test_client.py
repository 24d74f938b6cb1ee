"""The client against a server that misbehaves: retries, limits, cache, replay, streams, and what becomes of a reply."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rethink.endpoint import client as client_module
from rethink.endpoint.client import LARGEST_REPLY, EndpointClient, command_line_client
from rethink.endpoint.reply import NoReply, Reply
from rethink.errors import RecipeError, UsageError
from rethink.recipe.schema import EndpointSection
from tests.rewards.misbehaving import KEY, Misbehaving, completion, misbehaving_server

MESSAGES = [{"role": "user", "content": "hello"}]
OPTIONS = {"temperature": 0.0, "max_tokens": 512}


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def nowhere(model: str, cache: Path) -> EndpointClient:
    """A client that only replays."""
    return EndpointClient(EndpointSection(url="http://127.0.0.1:9/v1", model=model), "judge", cache=cache, offline=True)


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    with misbehaving_server() as state:
        yield state


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for between tries; nothing really is."""
    found: list[float] = []

    class Clock:
        monotonic, time = staticmethod(time.monotonic), staticmethod(time.time)
        sleep = staticmethod(found.append)

    monkeypatch.setattr(client_module, "time", Clock)
    return found


@pytest.fixture
def client(server: Misbehaving) -> Callable[..., EndpointClient]:
    def make(cache: Path | None = None, **options: Any) -> EndpointClient:
        section = EndpointSection(url=server.url, model="grader", **{"attempts": 3, **options})
        return EndpointClient(section, "judge", cache=cache)

    return make


@pytest.mark.parametrize(
    "trouble",
    [
        (500, {}),
        (503, {}),
        (429, {}),
        None,
        ("cut off",),
        b"not json",
        b'{"choices": []}',
        b"[" * 5000,
        completion("")[:-9],
    ],
    ids=str,
)
def test_what_passes_is_tried_again(trouble: Any, server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [trouble, trouble]
    assert client().ask(MESSAGES, OPTIONS) == server.reply
    assert len(server.requests) == 3


def test_what_does_not_pass_is_a_failure(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [(500, {})] * 3
    with pytest.raises(NoReply, match="HTTP 500, 3 times"):
        client().ask(MESSAGES, OPTIONS)
    server.plan = [(400, {})]
    with pytest.raises(NoReply, match="HTTP 400"):
        client().ask(MESSAGES, OPTIONS)
    assert len(server.requests) == 4  # a refusal is not tried again


def test_retry_after_is_honoured(
    server: Misbehaving, client: Callable[..., EndpointClient], waits: list[float]
) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.plan = [(429, {"Retry-After": "7"}), (503, {"Retry-After": date}), (429, {"Retry-After": "soon"})]
    client(attempts=4).ask(MESSAGES, OPTIONS)
    assert waits[0] == 7
    assert 17 < waits[1] <= 20
    assert 0 < waits[2] < 4  # unreadable: our own back-off
    server.plan = [(429, {"Retry-After": "86400"})]
    client().ask(question("another"), OPTIONS)
    assert waits[3] <= 60


def test_slow_replies_end_at_the_limit(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [("slow", 1.0)]
    with pytest.raises(NoReply) as error:
        client(attempts=1, seconds=0.2).ask(MESSAGES, OPTIONS)
    assert error.value.cause == "timeout"
    server.plan = [("drip", 100)]
    started = time.monotonic()
    with pytest.raises(NoReply) as error:
        client(attempts=1, seconds=0.3).ask(MESSAGES, OPTIONS)
    assert error.value.cause == "timeout"
    assert time.monotonic() - started < 4  # the server would drip for five seconds


def test_an_endless_reply_is_cut(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [completion("x" * (2 * LARGEST_REPLY))]
    with pytest.raises(NoReply, match="larger than"):
        client(attempts=1).ask(MESSAGES, OPTIONS)


@pytest.mark.parametrize("content", [None, 9, ["Score: 9"], {"text": "Score: 9"}])
def test_a_reply_whose_content_is_no_text_is_a_failure(
    content: Any, server: Misbehaving, client: Callable[..., EndpointClient]
) -> None:
    server.plan = [completion(content)]
    with pytest.raises(NoReply, match="holds no text") as error:
        client(attempts=1).ask(MESSAGES, OPTIONS)
    assert error.value.cause == "invalid"


def test_requests_at_once_are_limited(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.delay = 0.05
    one = client(concurrency=2)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: one.ask(question(str(i)), OPTIONS), range(8)))
    assert server.most_at_once == 2
    assert one.spent.requests == 8


def test_limits_on_cost_end_the_asking(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    one = client(max_requests=2, attempts=5)
    server.plan = [(500, {})]
    one.ask(MESSAGES, OPTIONS)  # a failed try and a good one: both count
    with pytest.raises(NoReply, match="max_requests=2"):
        one.ask(question("third"), OPTIONS)
    two = client(max_total_tokens=150)
    for number in range(2):
        two.ask(question(str(number)), OPTIONS)
    with pytest.raises(NoReply, match="max_total_tokens=150"):
        two.ask(question("2"), OPTIONS)


def test_equal_questions_are_asked_once_and_replayed_offline(
    server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path
) -> None:
    server.delay = 0.05
    one = client(cache=tmp_path)
    with ThreadPoolExecutor(8) as threads:
        replies = set(threads.map(lambda _: one.ask(MESSAGES, OPTIONS), range(8)))
    assert replies == {server.reply}
    assert len(server.requests) == 1
    elsewhere = nowhere("grader", tmp_path)
    assert elsewhere.ask(MESSAGES, OPTIONS) == server.reply
    with pytest.raises(NoReply, match="not in"):
        elsewhere.ask(question("never asked"), OPTIONS)
    other_model = nowhere("another", tmp_path)
    with pytest.raises(NoReply, match="not in"):
        other_model.ask(MESSAGES, OPTIONS)


def test_a_broken_cache_entry_is_asked_again(
    server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path
) -> None:
    client(cache=tmp_path).ask(MESSAGES, OPTIONS)
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text('{"reply": ')
    assert client(cache=tmp_path).ask(MESSAGES, OPTIONS) == server.reply
    assert json.loads(entry.read_text())["reply"] == server.reply


def test_failures_are_not_cached(server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path) -> None:
    server.plan = [(500, {})] * 3
    one = client(cache=tmp_path)
    with pytest.raises(NoReply):
        one.ask(MESSAGES, OPTIONS)
    assert not list(tmp_path.rglob("*.json"))
    assert one.ask(MESSAGES, OPTIONS) == server.reply


def test_redirects_are_not_followed(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [(307, {"Location": f"{server.url}/chat/completions"})]
    with pytest.raises(NoReply, match="HTTP 307"):
        client().ask(MESSAGES, OPTIONS)
    assert len(server.requests) == 1


# --- completions and streams ---------------------------------------------------------------------------------------


def test_a_completion_comes_with_its_thought_and_tokens(
    server: Misbehaving, client: Callable[..., EndpointClient]
) -> None:
    message = {"content": None, "reasoning": "so"}
    body = {"choices": [{"message": message, "finish_reason": "length"}], "usage": {"completion_tokens": 7}}
    server.plan = [json.dumps(body).encode()]
    reply = client().complete(MESSAGES, OPTIONS | {"seed": 1})
    assert reply == Reply("", "so", cut=True, tokens=7)
    assert reply.whole == "<think>\nso\n"
    assert server.requests[0] == {"model": "grader", "messages": MESSAGES, **OPTIONS, "seed": 1}


def test_a_text_is_continued(server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path) -> None:
    server.plan = [b'{"choices": [{"text": " four", "finish_reason": "stop"}]}'] * 2
    one = client(cache=tmp_path)
    assert one.complete("2 + 2 is", OPTIONS | {"seed": 1}) == Reply(" four")
    one.complete("2 + 2 is", OPTIONS | {"seed": 2})
    assert [request["prompt"] for request in server.requests] == ["2 + 2 is"] * 2  # each seed has its own reply
    assert one.complete("2 + 2 is", OPTIONS | {"seed": 1}) == Reply(" four")
    assert one.spent.cached == 1


def stream(*deltas: dict[str, Any], finish: str | None = "stop") -> bytes:
    """A stream of server-sent events."""
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [] if finish is None else [{"choices": [{"delta": {}, "finish_reason": finish}]}, {"choices": []}]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b": end\ndata: [DONE]\n\n"


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_stream_is_told_in_pieces(
    server: Misbehaving, client: Callable[..., EndpointClient], waits: list[float], finish: str
) -> None:
    server.plan = [(503, {}), stream({"reasoning": "a"}, {"content": "b"}, {"content": "c"}, finish=finish)]
    told: list[str] = []
    assert client().stream(MESSAGES, OPTIONS, told.append) == (finish == "length")
    assert told == ["<think>\na", "\n</think>\n\nb", "c"]
    assert len(waits) == 1
    assert server.requests[1]["stream"] is True


@pytest.mark.parametrize(
    "broken",
    [
        stream({"content": "a"}, finish=None),
        stream({"content": "a"}, finish=None) .replace(b"data: [DONE]", b'data: {"error": "' + KEY.encode() + b'"}'),
        stream({"content": "a"}, finish=None).replace(b"data: [DONE]", b"data: {"),
        stream({"content": "a"}, finish=None).replace(b"data: [DONE]", b'data: {"choices": 1}'),
        stream({"content": "a"}, finish=None) + b"data: " + b"x" * (2 * LARGEST_REPLY),
    ],
)  # fmt: skip
def test_a_stream_that_breaks_is_not_begun_again(
    server: Misbehaving, client: Callable[..., EndpointClient], monkeypatch: pytest.MonkeyPatch, broken: bytes
) -> None:
    monkeypatch.setenv("GRADER_KEY", KEY)
    server.plan = [broken]
    told: list[str] = []
    with pytest.raises(NoReply) as error:
        client(key_env="GRADER_KEY").stream(MESSAGES, OPTIONS, told.append)
    assert KEY not in error.value.detail
    assert (told, len(server.requests)) == (["a"], 1)


@pytest.mark.parametrize(
    ("failure", "alone"),
    [
        (NoReply("invalid", "no text"), True),
        (NoReply("exception", "too long", 400), True),
        (NoReply("exception", "bad key", 401), False),
        (NoReply("exception", "no model", 404), False),
        (NoReply("exception", "moved", 307), False),
        (NoReply("exception", "HTTP 500, 3 times"), False),
        (NoReply("timeout", "no reply"), False),
    ],
)
def test_whose_a_failure_is(failure: NoReply, alone: bool) -> None:
    assert failure.only_this is alone


def test_a_command_takes_the_first_key_that_is_set(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETHINK_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "second")
    limits: dict[str, Any] = {"seconds": 9.0, "attempts": 1, "concurrency": 1}
    command_line_client("m", server.url, **limits).ask(MESSAGES, OPTIONS)
    assert server.headers[0]["Authorization"] == "Bearer second"
    with pytest.raises(UsageError, match="--endpoint is 'localhost:8000', which is no URL"):
        command_line_client("m", "localhost:8000", **limits)
    with pytest.raises(RecipeError, match="environment variable RETHINK_API_KEY"):
        command_line_client("m", "http://me:pw@localhost/v1", **limits)
