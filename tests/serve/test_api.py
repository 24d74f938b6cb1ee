"""The API's answers, by requests without a network: what the engine gives, in OpenAI's shape; and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.loading import Checkpoint
from rethink.rollout.engines.torch import TorchEngine
from rethink.serve.app import Service, make_app
from rethink.types import Completion, GenerationRequest, SamplingParams
from tests.serve.conftest import CONTEXT, MODEL

HELLO = [{"role": "user", "content": "hello"}]


def chat(client: TestClient, status: int = 200, **values: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO, "max_tokens": 12} | values)
    assert answer.status_code == status, answer.text
    return answer.json()


def text(client: TestClient, status: int = 200, **values: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "hello"} | values)
    assert answer.status_code == status, answer.text
    return answer.json()


def streamed(client: TestClient, path: str, **values: Any) -> list[dict[str, Any]]:
    """Chunks of a stream, whose last line is checked."""
    with client.stream("POST", f"/v1/{path}", json={"model": MODEL, "stream": True} | values) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def expected(tiny: tuple[Checkpoint, Decoder], prompt: str, seeds: list[int], **params: Any) -> list[Completion]:
    checkpoint, model = tiny
    stops = tuple(sorted(checkpoint.tokenizer.end_of_turn_ids))
    request = GenerationRequest(
        tuple(checkpoint.tokenizer.encode(prompt)), tuple(seeds), SamplingParams(stop_token_ids=stops, **params)
    )
    return TorchEngine(model, checkpoint.tokenizer.decode).generate([request])[0]


# --- what the engine gives ---------------------------------------------------------------------------------------


def test_completions_are_those_of_the_engine(client: TestClient, tiny: tuple[Checkpoint, Decoder]) -> None:
    completions = expected(tiny, "hello", [7, 8, 9], temperature=0.8, top_p=0.9, max_new_tokens=20)
    answer = text(client, n=3, seed=7, temperature=0.8, top_p=0.9, max_tokens=20)
    assert [c["text"] for c in answer["choices"]] == [c.text for c in completions]
    assert [c["finish_reason"] for c in answer["choices"]] == [c.finish_reason for c in completions]
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    prompt, new = len(tiny[0].tokenizer.encode("hello")), sum(len(c.token_ids) for c in completions)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
    assert answer["object"] == "text_completion"
    assert answer["model"] == MODEL


def test_chats_are_rendered_by_the_template(client: TestClient, tiny: tuple[Checkpoint, Decoder]) -> None:
    tokenizer = tiny[0].tokenizer
    turns = [{"role": "system", "content": "be brief"}, *HELLO]
    prompt = tokenizer.render_chat(turns, add_generation_prompt=True)
    (completion,) = expected(tiny, prompt, [3], temperature=1.0, max_new_tokens=12)
    parts = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]
    answer = chat(client, seed=3, messages=[{"role": "developer", "content": parts}, *HELLO])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": completion.text}
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(prompt))


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_put_together_is_the_whole_answer(client: TestClient, path: str) -> None:
    body = {"n": 3, "seed": 5, "max_tokens": 40, "temperature": 1.2}
    body |= {"prompt": "hello"} if path == "completions" else {"messages": HELLO}
    whole = client.post(f"/v1/{path}", json={"model": MODEL} | body).json()
    chunks = streamed(client, path, **body, stream_options={"include_usage": True})
    texts, reasons = ["", "", ""], [None, None, None]
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"] if path == "completions" else choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    if path == "completions":
        assert texts == [c["text"] for c in whole["choices"]]
    else:
        assert texts == [c["message"]["content"] for c in whole["choices"]]
        assert [c["choices"][0]["delta"] for c in chunks[:3]] == [{"role": "assistant", "content": ""}] * 3
    assert reasons == [c["finish_reason"] for c in whole["choices"]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_several_prompts_are_numbered_one_after_the_other(client: TestClient) -> None:
    alone = [text(client, prompt=p, n=2, seed=4)["choices"] for p in ("hello", "the")]
    both = text(client, prompt=["hello", "the"], n=2, seed=4)["choices"]
    assert [c["text"] for c in both] == [c["text"] for choices in alone for c in choices]
    assert [c["index"] for c in both] == [0, 1, 2, 3]


def test_ids_are_a_prompt_too(client: TestClient, tiny: tuple[Checkpoint, Decoder]) -> None:
    ids = tiny[0].tokenizer.encode("hello")
    wanted = text(client, seed=1)["choices"][0]["text"]
    assert text(client, prompt=ids, seed=1)["choices"][0]["text"] == wanted
    assert [c["text"] for c in text(client, prompt=[ids, ids], seed=1)["choices"]] == [wanted, wanted]


def test_without_a_seed_completions_differ(client: TestClient) -> None:
    assert len({text(client, temperature=1.0)["choices"][0]["text"] for _ in range(4)}) > 1
    assert len({text(client, temperature=0.0)["choices"][0]["text"] for _ in range(4)}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_a_completion_and_is_not_shown(client: TestClient, stream: bool) -> None:
    free = text(client, seed=2, max_tokens=40)["choices"][0]["text"]
    stop = next(free[i : i + 3] for i in range(8, len(free)) if free.index(free[i : i + 3]) == i)
    body = {"prompt": "hello", "seed": 2, "max_tokens": 40, "stop": [stop, "never there"]}
    if stream:
        shown = "".join(chunk["choices"][0]["text"] for chunk in streamed(client, "completions", **body))
        assert shown == free[: free.index(stop)]
        return
    choice = text(client, **body)["choices"][0]
    assert choice["text"] == free[: free.index(stop)]
    assert choice["finish_reason"] == "stop"


def test_chats_may_use_all_of_the_context(client: TestClient) -> None:
    answer = chat(client, max_tokens=None, temperature=1.0, seed=0)
    assert answer["choices"][0]["finish_reason"] == "stop" or answer["usage"]["total_tokens"] == CONTEXT


def test_a_thought_that_the_template_began_is_reasoning(
    make: Callable[..., Service], tiny: tuple[Checkpoint, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny[0].tokenizer
    monkeypatch.setitem(tokenizer.__dict__, "chat_template", tokenizer.chat_template + "<think>\n")
    monkeypatch.delitem(tokenizer.__dict__, "_template", raising=False)
    with TestClient(make_app(make())) as client:
        message = chat(client, seed=3)["choices"][0]["message"]
        chunks = streamed(client, "chat/completions", messages=HELLO, seed=3, max_tokens=12)
    monkeypatch.undo()
    tokenizer.__dict__.pop("_template", None)
    assert message["content"] == ""
    assert message["reasoning_content"]
    assert (
        "".join(c["choices"][0]["delta"].get("reasoning_content", "") for c in chunks) == message["reasoning_content"]
    )


# --- log-probabilities -------------------------------------------------------------------------------------------


def reference(tiny: tuple[Checkpoint, Decoder], ids: list[int]) -> torch.Tensor:
    """Log-probabilities [T - 1, V] of what follows each token but the last."""
    _, model = tiny
    batch = pack([PackedGroup(ids[:1], [ids[1:]])])
    with torch.no_grad():
        return (model.hidden(batch)[batch.head_rows_C] @ model.head.t()).log_softmax(-1)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_chat_logprobs_are_the_models(client: TestClient, tiny: tuple[Checkpoint, Decoder], temperature: float) -> None:
    tokenizer = tiny[0].tokenizer
    prompt = tokenizer.render_chat(HELLO, add_generation_prompt=True)
    (completion,) = expected(tiny, prompt, [3], temperature=temperature, max_new_tokens=12)
    ids = [*tokenizer.encode(prompt), *completion.token_ids.tolist()]
    logprobs = reference(tiny, ids)[-len(completion.token_ids) :]
    answer = chat(client, seed=3, temperature=temperature, logprobs=True, top_logprobs=4)
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == len(completion.token_ids)
    for entry, row, token in zip(content, logprobs, completion.token_ids.tolist(), strict=True):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        assert [a["logprob"] for a in entry["top_logprobs"]] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)
        assert bytes(entry["bytes"]).decode("utf-8", "replace") == entry["token"]
    chunks = streamed(
        client,
        "chat/completions",
        messages=HELLO,
        max_tokens=12,
        seed=3,
        temperature=temperature,
        logprobs=True,
        top_logprobs=4,
    )
    parts = [c["choices"][0]["logprobs"] for c in chunks]
    assert [e for part in parts if part is not None for e in part["content"]] == content


@pytest.mark.parametrize("max_tokens", [0, 1, 9])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_has_its_logprobs(
    client: TestClient, tiny: tuple[Checkpoint, Decoder], max_tokens: int, stream: bool
) -> None:
    """What lm-eval reads: the prompt's tokens, then the completion's, with the most likely token of each place."""
    tokenizer = tiny[0].tokenizer
    prompts = ["hello world", "the"]
    body = {"prompt": prompts, "max_tokens": max_tokens, "temperature": 0.0, "logprobs": 1, "echo": True}
    if stream:
        choices: list[dict[str, Any]] = [{"text": "", "logprobs": {}} for _ in prompts]
        for chunk in streamed(client, "completions", **body):
            (part,) = chunk["choices"]
            choices[part["index"]]["text"] += part["text"]
            for key, values in (part["logprobs"] or {}).items():
                choices[part["index"]]["logprobs"].setdefault(key, []).extend(values)
    else:
        answer = text(client, **body)
        choices = answer["choices"]
        assert answer["usage"]["prompt_tokens"] == sum(len(tokenizer.encode(p)) for p in prompts)
    for prompt, choice in zip(prompts, choices, strict=True):
        ids = tokenizer.encode(prompt)
        if max_tokens:
            (completion,) = expected(tiny, prompt, [0], temperature=0.0, max_new_tokens=max_tokens)
            assert choice["text"] == prompt + completion.text
            ids = [*ids, *completion.token_ids.tolist()]
        else:
            assert choice["text"] == prompt
        found, logprobs = choice["logprobs"], reference(tiny, ids)
        assert len(found["tokens"]) == len(ids)
        assert found["token_logprobs"][0] is None
        assert found["top_logprobs"][0] is None
        wanted = [float(row[token]) for row, token in zip(logprobs, ids[1:], strict=True)]
        assert found["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-4)
        for row, best, token, name in zip(
            logprobs, found["top_logprobs"][1:], ids[1:], found["tokens"][1:], strict=True
        ):
            assert max(best.values()) == pytest.approx(float(row.max()), abs=1e-4)
            assert (best[name] == max(best.values())) == (int(row.argmax()) == token)
        assert found["text_offset"][0] == 0
        assert found["text_offset"] == sorted(found["text_offset"])


def test_an_echo_without_logprobs_is_only_text(client: TestClient) -> None:
    plain, echoed = text(client, seed=1), text(client, seed=1, echo=True)
    assert echoed["choices"][0]["text"] == "hello" + plain["choices"][0]["text"]
    only = text(client, echo=True, max_tokens=0, n=2)
    assert [c["text"] for c in only["choices"]] == ["hello", "hello"]
    assert [c["finish_reason"] for c in only["choices"]] == ["length", "length"]


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"model": "other"}, "model", "model_not_found"),
    ({"model": None}, "model", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hello"}, "messages", "invalid_value"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "invalid_value"),
    ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_value"),
    ({"max_tokens": 1_000_000}, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "invalid_value"),
    ({"messages": [{"role": "user", "content": "a b " * 500_000}]}, "messages", "context_length_exceeded"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 100}, None, "too_many_completions"),
    ({"seed": 2**70}, "seed", "invalid_value"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"stop": 3}, "stop", "invalid_value"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 50}, "top_logprobs", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "unsupported_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"tempreature": 1}, "tempreature", "unknown_parameter"),
]


@pytest.mark.parametrize(("values", "param", "code"), REFUSED, ids=[f"{i}-{r[2]}" for i, r in enumerate(REFUSED)])
def test_a_wrong_chat_is_refused(client: TestClient, values: dict[str, Any], param: str | None, code: str) -> None:
    body = json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": 3} | values)
    answer = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (404 if code == "model_not_found" else 400), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert len(error["message"]) > 10


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [5] * 1_000_000}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 4}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
    ],
)
def test_a_wrong_text_is_refused(client: TestClient, values: dict[str, Any], param: str) -> None:
    error = text(client, 400, **values)["error"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{", "application/json", "invalid_json"),
        (b"\xff\xfe", "application/json", "invalid_json"),
        (b'{"model": "tiny", "prompt": "a", "\\ud800": 1}', "application/json", "invalid_value"),
        (b"[" * 100_000, "application/json", "invalid_request"),
        (b"[]", "application/json", "invalid_body"),
        (b"", "application/json", "missing_parameter"),
        (b'{"model": "tiny", "prompt": "a"}', "text/plain", "invalid_body"),
    ],
)
def test_what_is_no_json_object_is_refused(client: TestClient, content: bytes, kind: str, code: str) -> None:
    answer = client.post("/v1/completions", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == code


def test_a_body_without_end_is_refused(client: TestClient) -> None:
    def endless() -> Any:
        for _ in range(40):
            yield b" " * (1 << 20)

    for content in (endless(), b" " * (17 << 20)):
        answer = client.post("/v1/completions", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_unknown_addresses_and_methods_are_refused(client: TestClient) -> None:
    for answer, status in (
        (client.get("/v1/embeddings"), 404),
        (client.get("/v1/chat/completions"), 405),
        (client.get("/v1/models/other"), 404),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_model_without_a_chat_template_takes_texts_only(
    make: Callable[..., Service], tiny: tuple[Checkpoint, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny[0].tokenizer, "chat_template", None)
    with TestClient(make_app(make())) as client:
        error = chat(client, 400)["error"]
        assert error["code"] == "chat_template_missing"
        assert "/v1/completions" in error["message"]
        assert text(client)["choices"]


def test_a_template_that_refuses_is_the_requests_fault(
    make: Callable[..., Service], tiny: tuple[Checkpoint, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny[0].tokenizer
    monkeypatch.setitem(tokenizer.__dict__, "chat_template", "{{ raise_exception('roles must alternate') }}")
    tokenizer.__dict__.pop("_template", None)
    with TestClient(make_app(make())) as client:
        error = chat(client, 400)["error"]
    monkeypatch.undo()
    tokenizer.__dict__.pop("_template", None)
    assert error["code"] == "chat_template_refused"
    assert "roles must alternate" in error["message"]


def test_a_key_is_asked_for(service: Service) -> None:
    with TestClient(make_app(service, "secret-é")) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        key = {"Authorization": "Bearer secret-é".encode()}
        assert client.get("/v1/models", headers=key).status_code == 200
        assert client.get("/health").status_code == 200


def test_models_and_health(client: TestClient) -> None:
    models = client.get("/v1/models").json()
    assert [m["id"] for m in models["data"]] == [MODEL]
    assert client.get(f"/v1/models/{MODEL}").json() == models["data"][0]
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["pages"] == health["pages_free"] > 0


def test_half_of_a_surrogate_pair_is_named(client: TestClient) -> None:
    for path, body in (
        ("completions", '{"model": "tiny", "prompt": "a\\ud83d"}'),
        ("completions", '{"model": "tiny", "prompt": ["a", "\\ud83d"]}'),
        ("completions", '{"model": "tiny", "prompt": "a", "stop": ["\\ude00"]}'),
        ("completions", '{"model": "\\ud83d", "prompt": "a"}'),
        ("chat/completions", '{"model": "tiny", "messages": [{"role": "user", "content": "\\ud83d"}]}'),
        (
            "chat/completions",
            '{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "\\ud83d"}]}]}',
        ),
    ):
        answer = client.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, body
        assert "half of a surrogate pair" in answer.json()["error"]["message"], body
    whole = '{"model": "tiny", "prompt": "\\ud83d\\ude00", "max_tokens": 1}'
    assert client.post("/v1/completions", content=whole, headers={"Content-Type": "application/json"}).is_success
