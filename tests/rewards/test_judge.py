"""The judge against a server that misbehaves: retries, limits, cache, replay, and what its reply may do."""

from __future__ import annotations

import email.utils
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import RecipeError
from rethink.rewards import endpoint as endpoint_module
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.endpoint import Endpoint, EndpointClient
from rethink.rewards.judge import TEMPLATE, fill, read_score
from rethink.rewards.outcome import PartFailed, PartFunction, run_part
from rethink.types import Completion, Problem, Prompt, RewardOutcome
from tests.rewards.misbehaving import KEY, Misbehaving, completion, misbehaving_server

PROBLEM = Problem("p/0", "p", "Why is the sky blue?", "Rayleigh scattering")
MESSAGES = [{"role": "user", "content": "hello"}]


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

    monkeypatch.setattr(endpoint_module, "time", Clock)
    return found


@pytest.fixture
def client(server: Misbehaving) -> Callable[..., EndpointClient]:
    return lambda **options: EndpointClient(Endpoint(server.url, "grader", **{"attempts": 3, **options}))


def answer(text: str) -> Completion:
    none = np.zeros(0, np.float32)
    return Completion(np.zeros(0, np.int32), text, none, none, "stop")


def judge(server: Misbehaving, **options: Any) -> PartFunction:
    params = {"url": server.url, "model": "grader", "cache": None, **options}
    return make_part("judge", params, PartContext(), "reward.parts.0")


def outcome(part: PartFunction, text: str) -> RewardOutcome:
    return run_part(part, PROBLEM, Prompt("", ()), answer(text))


def test_a_score_is_a_share_of_the_highest(server: Misbehaving) -> None:
    part = judge(server)
    assert outcome(part, "<think>t</think><answer>light scatters</answer>") == RewardOutcome(0.8)
    asked = server.requests[0]["messages"][-1]["content"]
    assert "light scatters" in asked
    assert "Rayleigh scattering" in asked
    assert "Why is the sky blue?" in asked
    assert server.requests[0]["temperature"] == 0


def test_no_answer_is_0_without_a_question(server: Misbehaving) -> None:
    assert outcome(judge(server), "<think>t</think>") == RewardOutcome(0.0)
    assert not server.requests


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
    assert client().ask(MESSAGES) == server.reply
    assert len(server.requests) == 3


def test_what_does_not_pass_is_a_failure(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [(500, {})] * 3
    with pytest.raises(PartFailed, match="HTTP 500, 3 times"):
        client().ask(MESSAGES)
    server.plan = [(400, {})]
    with pytest.raises(PartFailed, match="HTTP 400"):
        client().ask(MESSAGES)
    assert len(server.requests) == 4  # a refusal is not tried again


def test_retry_after_is_honoured(
    server: Misbehaving, client: Callable[..., EndpointClient], waits: list[float]
) -> None:
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    server.plan = [(429, {"Retry-After": "7"}), (503, {"Retry-After": date}), (429, {"Retry-After": "soon"})]
    client(attempts=4).ask(MESSAGES)
    assert waits[0] == 7
    assert 17 < waits[1] <= 20
    assert 0 < waits[2] < 4  # unreadable: our own back-off
    server.plan = [(429, {"Retry-After": "86400"})]
    client().ask([{"role": "user", "content": "another"}])
    assert waits[3] <= 60


def test_slow_replies_end_at_the_limit(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [("slow", 1.0)]
    with pytest.raises(PartFailed) as error:
        client(attempts=1, seconds=0.2).ask(MESSAGES)
    assert error.value.cause == "timeout"
    server.plan = [("drip", 100)]
    started = time.monotonic()
    with pytest.raises(PartFailed) as error:
        client(attempts=1, seconds=0.3).ask(MESSAGES)
    assert error.value.cause == "timeout"
    assert time.monotonic() - started < 4  # the server would drip for five seconds


def test_an_endless_reply_is_cut(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [completion("x" * (2 << 20))]
    with pytest.raises(PartFailed, match="larger than"):
        client(attempts=1).ask(MESSAGES)


def test_a_reply_that_ran_out_of_tokens_is_a_failure(server: Misbehaving) -> None:
    server.plan = [completion("It begins well. Score: 9", finish="length")]
    assert "cut at max_tokens" in str(outcome(judge(server), "<answer>a</answer>").failure)


@pytest.mark.parametrize("content", [None, 9, ["Score: 9"], {"text": "Score: 9"}])
def test_a_reply_whose_content_is_no_text_is_a_failure(
    content: Any, server: Misbehaving, client: Callable[..., EndpointClient]
) -> None:
    server.plan = [completion(content)]
    with pytest.raises(PartFailed, match="holds no text") as error:
        client(attempts=1).ask(MESSAGES)
    assert error.value.cause == "invalid"


def test_requests_at_once_are_limited(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.delay = 0.05
    one = client(concurrency=2)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: one.ask([{"role": "user", "content": str(i)}]), range(8)))
    assert server.most_at_once == 2
    assert one.spent.requests == 8


def test_limits_on_cost_end_the_asking(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    one = client(max_requests=2, attempts=5)
    server.plan = [(500, {})]
    one.ask(MESSAGES)  # a failed try and a good one: both count
    with pytest.raises(PartFailed, match="max_requests=2"):
        one.ask([{"role": "user", "content": "third"}])
    two = client(max_total_tokens=150)
    for number in range(2):
        two.ask([{"role": "user", "content": str(number)}])
    with pytest.raises(PartFailed, match="max_total_tokens=150"):
        two.ask([{"role": "user", "content": "2"}])


def test_equal_questions_are_asked_once_and_replayed_offline(
    server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path
) -> None:
    server.delay = 0.05
    one = client(cache=tmp_path)
    with ThreadPoolExecutor(8) as threads:
        replies = set(threads.map(lambda _: one.ask(MESSAGES), range(8)))
    assert replies == {server.reply}
    assert len(server.requests) == 1
    elsewhere = EndpointClient(Endpoint("http://127.0.0.1:9/v1", "grader", cache=tmp_path, offline=True))
    assert elsewhere.ask(MESSAGES) == server.reply
    with pytest.raises(PartFailed, match="not in"):
        elsewhere.ask([{"role": "user", "content": "never asked"}])
    other_model = EndpointClient(Endpoint("http://127.0.0.1:9/v1", "another", cache=tmp_path, offline=True))
    with pytest.raises(PartFailed, match="not in"):
        other_model.ask(MESSAGES)


def test_a_broken_cache_entry_is_asked_again(
    server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path
) -> None:
    client(cache=tmp_path).ask(MESSAGES)
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text('{"reply": ')
    assert client(cache=tmp_path).ask(MESSAGES) == server.reply
    assert json.loads(entry.read_text())["reply"] == server.reply


def test_failures_are_not_cached(server: Misbehaving, client: Callable[..., EndpointClient], tmp_path: Path) -> None:
    server.plan = [(500, {})] * 3
    one = client(cache=tmp_path)
    with pytest.raises(PartFailed):
        one.ask(MESSAGES)
    assert not list(tmp_path.rglob("*.json"))
    assert one.ask(MESSAGES) == server.reply


def test_the_key_is_sent_and_never_shown(
    server: Misbehaving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("GRADER_KEY", KEY)
    part = judge(server, key_env="GRADER_KEY", cache=str(tmp_path))
    assert outcome(part, "<answer>a</answer>").score == 0.8
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.plan = [(400, {})]  # its body repeats the key
    failure = outcome(part, "<answer>b</answer>").failure
    assert failure is not None
    assert "HTTP 400" in failure
    for text in (failure, caplog.text, *(p.read_text() for p in tmp_path.rglob("*.json"))):
        assert KEY not in text


def test_redirects_are_not_followed(server: Misbehaving, client: Callable[..., EndpointClient]) -> None:
    server.plan = [(307, {"Location": f"{server.url}/chat/completions"})]
    with pytest.raises(PartFailed, match="HTTP 307"):
        client().ask(MESSAGES)
    assert len(server.requests) == 1


def test_mistakes_are_named_before_anything_starts(
    server: Misbehaving, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for options, said in (
        ({"url": "127.0.0.1:8000"}, "judge.url"),
        ({"url": "http://user:pw@127.0.0.1/v1"}, "key_env"),
        ({"url": f"http://127.0.0.1:{port}/v1"}, "nothing answers"),
        ({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ({"template": "grade it"}, "{answer}"),
        ({"offline": True}, "judge.cache"),
        ({"highest": 0}, "greater than 0"),
        ({"modell": "x"}, "no option `modell`"),
    ):
        with pytest.raises(RecipeError) as error:
            judge(server, **options)
        assert said in str(error.value), options
    server.models_status = 401
    with pytest.raises(RecipeError, match="refuses"):
        judge(server, attempts=2)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7),
        ("I would say score: 3, no:\n**Score: 8**", 8),
        ("Score: **6.5**", 6.5),
        ('{"reason": "fine", "score": 4}', 4),
        ("  10 ", 10),
        ("Score: 8/10", 8),
        ("score = 0", 0),
        ("**Score:** 7", 7),
        ("Score: 9 would be too much.\nScore: 2\n\n", 2),
        ('{"score": 3,\n "reason": "it says \\"score\\": 10"}', 3),
    ],
)
def test_scores_are_read(reply: str, score: float) -> None:
    assert read_score(reply, 10) == score


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "well done",
        "Score: 11",
        "Score: -1",
        "Score: ten",
        "8 of 10",
        "Score:" * 1000,
        # A score that is quoted, or is only a part of the last line.
        "It says Score: 10",
        "Score: 10 is what it asks for",
        "Score: 10\nI cannot grade this.",
        "It ends with\u2028Score: 10",
        "It ends with\rScore: 10",
        'It ends with "score": 10',
        '{"reason": {"score": 10}}',
        '{"score": 1, "score": 10}',
        '{"score": "10"}',
        '{"score": true}',
        '{"score": ' * 5000,
        # Other numbers.
        "Score: 1e1",
        '{"score": 1e1}',
        "1e1",
        "Score: 5/7",
        "Score: 1,5",
        "Score: ٣",
    ],
)
def test_replies_without_a_score_are_failures(reply: str) -> None:
    with pytest.raises(PartFailed):
        read_score(reply, 10)


@given(st.text(max_size=300))
def test_what_is_judged_cannot_leave_its_marks_or_fill_places(text: str) -> None:
    text += "{gold}{mark}"
    asked = fill(TEMPLATE, PROBLEM, text, 10)
    asked.encode()
    lines = asked.split("\n")
    marks = [line for line in lines if line.startswith("=====") and len(line) == 21]
    assert len(set(marks)) == 1 or "=====" in text
    assert asked.count("Rayleigh scattering") == 1
    assert "{gold}{mark}" in asked


def test_threads_may_share_a_part(server: Misbehaving) -> None:
    part, seen = judge(server), []
    threads = [
        threading.Thread(target=lambda i=i: seen.append(outcome(part, f"<answer>{i}</answer>").score)) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [0.8] * 6
