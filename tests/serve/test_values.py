"""Values that change nothing are taken, those that would are refused, and what is asked is bounded."""

import json
import tracemalloc
from typing import Any

import pytest
from starlette.testclient import TestClient

from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import Checkpoint
from rethink.serve import connection
from rethink.serve.app import Service, make_app
from rethink.serve.request_reading import Prompter
from tests.paths import SHARED_DATA
from tests.serve.conftest import MODEL
from tests.serve.test_api import chat, text

CASES = SHARED_DATA / "cases" / "server-neutral.jsonl"


# --- values that change nothing ----------------------------------------------------------------------------------

BOTH: dict[str, list[Any]] = {
    "top_k": [-1, 0],
    "repetition_penalty": [1, 1.0],
    "repeat_penalty": [1.0],
    "length_penalty": [1.0],
    "min_p": [0, 0.0],
    "typical_p": [1.0],
    "min_tokens": [0],
    "best_of": [1],
    "use_beam_search": [False],
    "early_stopping": [False],
    "stop_token_ids": [[]],
    "bad_words": [[]],
    "logit_bias": [{}],
    "service_tier": ["auto", "default"],
    "stop": [[]],
    "include_stop_str_in_output": [False],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "response_format": [{"type": "text"}],
    "metadata": [{"a": "b"}],
    "user": ["me"],
    "n": [1],
    "frequency_penalty": [0.0],
    "presence_penalty": [0],
    "ignore_eos": [False],
    "truncate_prompt_tokens": [None],
    "guided_json": [None],
    "detokenize": [True],
    "echo": [False],
    "stream_options": [{}, {"include_usage": False}],
    "watermark": [False],
    "priority": [0],
    "logprobs": [None],
    "stream": [False],
    "top_p": [1, 1.0],
    "return_token_ids": [False],
}
CHAT = {
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "add_special_tokens": [False],
    "store": [False],
    "documents": [[]],
    "chat_template_kwargs": [{}],
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "top_logprobs": [0],
    "parallel_tool_calls": [True],
    "modalities": [["text"]],
    "include_reasoning": [True],
    "verbosity": ["medium"],
    "prediction": [None],
    "tool_prompt": [""],
    "logprobs": [False],
    "safety_identifier": ["x"],
    "web_search_options": [None],
}
TEXT = {"add_special_tokens": [True], "suffix": ["", None], "return_full_text": [False], "details": [False]}


def test_values_that_change_nothing_change_nothing(client: TestClient) -> None:
    """What the clients of OpenAI, LangChain, lm-eval, vLLM, SGLang, TGI and llama.cpp send of themselves."""
    for ask, own in ((chat, CHAT), (text, TEXT)):
        plain = ask(client, seed=1, max_tokens=4)["choices"]
        single = {key: value for values in (BOTH, own) for key, several in values.items() for value in several[:1]}
        assert ask(client, seed=1, **single | {"max_tokens": 4})["choices"] == plain
        for key, several in (BOTH | own).items():
            for value in [*several[1:], None]:
                ask(client, **{"seed": 1, "max_tokens": 1, key: value})


@pytest.mark.skipif(not CASES.is_file(), reason=f"{CASES} is not here")
def test_cases_of_others(client: TestClient) -> None:
    for case in map(json.loads, CASES.read_text("utf-8").splitlines()):
        body = case["body"] | {"model": MODEL}
        assert f"{client.post(case['path'], json=body).status_code}:" == case["expected"][:4], case["id"]


def test_best_of_is_n_or_one(client: TestClient) -> None:
    assert len(text(client, n=3, best_of=3)["choices"]) == 3
    assert "best_of (2)" in text(client, 400, n=3, best_of=2)["error"]["message"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top_k", -2),
        ("repetition_penalty", 1.1),
        ("min_p", 0.05),
        ("min_tokens", 1),
        ("service_tier", "flex"),
        ("stop_token_ids", [5]),
        ("use_beam_search", True),
        ("skip_special_tokens", False),
        ("repetition_penalty", True),
        ("guided_json", {"type": "object"}),
    ],
)
def test_values_that_would_change_something_are_refused(client: TestClient, key: str, value: Any) -> None:
    assert text(client, 400, **{key: value})["error"]["param"] == key


def test_a_turn_may_go_on_after_its_end(client: TestClient, tiny: tuple[Checkpoint, Decoder]) -> None:
    """With `ignore_eos` no token ends a completion before its limit."""
    asked = {"n": 16, "seed": 0, "max_tokens": 200, "temperature": 2.0}
    assert "stop" in {c["finish_reason"] for c in text(client, **asked)["choices"]}
    answer = text(client, **asked, ignore_eos=True)
    assert {c["finish_reason"] for c in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] == 16 * 200


@pytest.mark.parametrize("temperature", [0, 1e-320, 1e-300, 1e-30, 1e-6])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_tiny_temperatures_are_greedy(client: TestClient, temperature: float, top_p: float) -> None:
    greedy = text(client, temperature=0)["choices"]
    assert text(client, temperature=temperature, top_p=top_p)["choices"] == greedy


# --- sizes and hosts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "field", "entry"), [
    ("completions", "prompt", '"a"'), ("completions", "prompt", "[1]"), ("completions", "prompt", '"a", 1'),
    ("completions", "stop", '"a"'), ("chat/completions", "messages", '{"role": "user", "content": "a"}'),
    ("chat/completions", "messages", "1"),
])  # fmt: skip
def test_entries_are_counted_before_they_are_looked_at(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, field: str, entry: str
) -> None:
    monkeypatch.setattr(Prompter, "_encode", None)  # nothing is tokenised
    other = '"prompt": "a", ' if field == "stop" else ""
    monkeypatch.setattr(connection, "MOST_VALUES", 65_000)
    for number, status in ((20_000, 400), (66_000, 413)):
        body = f'{{"model": "tiny", {other}"{field}": [{", ".join([entry] * number)}]}}'
        tracemalloc.start()
        answer = client.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.status_code == status, answer.text
        assert len(answer.text) < 500
        assert most < 30 << 20


def test_prompts_beyond_what_the_server_holds_are_not_tokenised(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prompter, "_encode", None)
    assert text(client, 400, prompt=["a"] * 81)["error"]["code"] == "too_many_completions"
    assert text(client, 400, prompt=["a"] * 21, n=4)["error"]["code"] == "too_many_completions"
    assert chat(client, 400, n=81)["error"]["code"] == "too_many_completions"


def test_unknown_fields_are_counted(client: TestClient) -> None:
    answer = text(client, 400, **{f"x{i}": i for i in range(5000)})
    assert "fields are more" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("localhost.", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("127.0.0.53", 200),
        ("own.example:80", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("evil.example:80:80", 403),
        ("[evil]", 403),
        ("own.example.evil", 403),
    ],
)
def test_only_names_of_this_machine_are_answered(service: Service, host: str, status: int) -> None:
    with TestClient(make_app(service, hosts=["127.0.0.1", "Own.example"])) as client:
        for path in ("/v1/models", "/health", "/openapi.json"):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == status
            if status == 403:
                assert answer.json()["error"]["code"] == "host_not_allowed"
