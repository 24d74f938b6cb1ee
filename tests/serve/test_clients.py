"""The clients that people use, against a server on a port: the `openai` package, and lm-eval where it is installed."""

import asyncio
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rethink.errors import UsageError
from rethink.rollout.decoding import Decoding
from rethink.serve.server import bind, is_loopback
from tests.serve.conftest import MODEL, Live
from tests.serve.load import settles

openai = pytest.importorskip("openai")


@pytest.fixture
def openai_client(live: Live) -> "openai.OpenAI":
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_chats_whole_and_streamed(openai_client: "openai.OpenAI") -> None:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "seed": 3, "max_tokens": 20, "n": 2}
    whole = openai_client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    texts = ["", ""]
    for chunk in openai_client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        usage = chunk.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage == whole.usage
    assert all(len(entry.top_logprobs) == 2 for entry in whole.choices[0].logprobs.content)


def test_texts_with_logprobs(openai_client: "openai.OpenAI") -> None:
    answer = openai_client.completions.create(model=MODEL, prompt="hello", max_tokens=5, echo=True, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.tokens) == answer.usage.total_tokens
    assert [m.id for m in openai_client.models.list()] == [MODEL]


def test_errors_are_those_that_the_client_knows(openai_client: "openai.OpenAI") -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        openai_client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError) as error:
        openai_client.completions.create(model=MODEL, prompt="a", max_tokens=10**6)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "max_tokens"


def test_a_stream_that_is_closed_is_cancelled(openai_client: "openai.OpenAI", live: Live) -> None:
    stream = openai_client.completions.create(model=MODEL, prompt="hello", max_tokens=250, n=16, stream=True)
    next(iter(stream))
    stream.close()
    assert settles(live.idle)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_not_worked_for(live: Live, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    step, steps = Decoding.step, []

    def slow(decoding: Decoding) -> bool:
        steps.append(len(decoding.batch))
        time.sleep(0.1)
        return step(decoding)

    monkeypatch.setattr(Decoding, "step", slow)
    address = live.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 250, "n": 4, "seed": 0, "stream": stream}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert settles(lambda: live.service.engine.counts()["running"] > 0)
    connection.close()
    assert settles(live.idle)
    assert len(steps) < 100, "it was generated to its end"


def test_many_at_once_by_the_async_client(live: Live) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            answers = await asyncio.gather(
                *(client.completions.create(model=MODEL, prompt="hello", seed=i % 4, max_tokens=30) for i in range(40))
            )
        return [answer.choices[0].text for answer in answers]

    texts = asyncio.run(ask())
    assert all(texts[i] == texts[i % 4] for i in range(40))
    assert len(set(texts)) == 4
    assert settles(live.idle)


TASK = """\
task: tiny_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICES = "doc_to_choice: [' yes', ' no']\ndoc_to_target: answer\nmetric_list: [{metric: acc}]\n"
UNTIL = (
    "doc_to_target: word\ngeneration_kwargs: {until: ['\\n'], max_gen_toks: 8}\nmetric_list: [{metric: exact_match}]\n"
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None and not os.environ.get("LM_EVAL_PYTHON"),
    reason="lm-eval is not installed; LM_EVAL_PYTHON may name a python that has it",
)
def test_lm_eval_measures_through_the_server(live: Live, tmp_path: Path) -> None:
    rows = [{"question": f"is {i} even?", "answer": i % 2, "word": "yes"} for i in range(8)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for kind, more in (("multiple_choice", CHOICES), ("generate_until", UNTIL)):
        (tmp_path / f"{kind}.yaml").write_text(TASK.format(kind=kind, data=data) + more, "utf-8")
    (tmp_path / "tokenizer").mkdir()
    live.service.tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "config.json").write_text('{"model_type": "llama"}', "utf-8")
    common = f"model={MODEL},num_concurrent=4,max_retries=1,max_length=200"
    tokenizer = f"tokenizer_backend=huggingface,tokenizer={tmp_path / 'tokenizer'}"
    for model, address, task, extra in (
        ("local-completions", "completions", "tiny_multiple_choice", f",{tokenizer}"),
        ("local-completions", "completions", "tiny_generate_until", f",{tokenizer}"),
        ("local-chat-completions", "chat/completions", "tiny_generate_until", ""),
    ):
        arguments = f"{common},base_url={live.url}/v1/{address}{extra}"
        command = [os.environ.get("LM_EVAL_PYTHON", sys.executable), "-m", "lm_eval", "--model", model]
        command += ["--model_args", arguments, "--tasks", task, "--include_path", str(tmp_path)]
        command += ["--output_path", str(tmp_path / "out" / model / task)]
        command += ["--apply_chat_template"] if "chat" in model else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (found,) = (tmp_path / "out" / model / task).rglob("results_*.json")
        assert json.loads(found.read_text())["results"][task]
    assert settles(live.idle)


def test_addresses() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UsageError, match="--port"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="--port"):
        bind("127.0.0.1", 70_000)
    with pytest.raises(UsageError, match="--host"):
        bind("no.such.host.invalid", 0)
    assert [is_loopback(h) for h in ("127.0.0.1", "::1", "localhost", "0.0.0.0")] == [True, True, True, False]
