"""The reward `judge` against a server that misbehaves: what it asks, what its reply may do, and mistakes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import RecipeError
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.endpoint_judge import TEMPLATE, fill, read_score
from rethink.rewards.outcome import PartFailed, PartFunction, run_part
from rethink.types import Completion, Problem, Prompt, RewardOutcome
from tests.rewards.misbehaving import KEY, Misbehaving, completion, misbehaving_server

PROBLEM = Problem("p/0", "p", "Why is the sky blue?", "Rayleigh scattering")


@pytest.fixture
def server() -> Iterator[Misbehaving]:
    with misbehaving_server() as state:
        yield state


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.endpoint.client.FIRST_WAIT", 0.0)


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


def test_a_reply_that_ran_out_of_tokens_is_a_failure(server: Misbehaving) -> None:
    server.plan = [completion("It begins well. Score: 9", finish="length")]
    assert "cut at max_tokens" in str(outcome(judge(server), "<answer>a</answer>").failure)


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
