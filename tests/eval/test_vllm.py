"""The vLLM backend of an evaluation, on a fake vLLM: prompts of ours, resume, records, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.errors import EngineFailure, RunFolderError
from rethink.eval.backend import Backend, open_backend
from rethink.eval.sample_files import SampleStore
from rethink.model.tokenizer.tokenizer import Tokenizer
from tests import fake_vllm


def load(model: str, dtype: str | None) -> Backend:
    return open_backend(model, dtype, "vllm")


@pytest.fixture
def model(tiny_folder: Callable[..., Path]) -> str:
    return str(tiny_folder("llama", max_position_embeddings=1024))


@pytest.fixture
def right(small_tokenizer: Tokenizer) -> fake_vllm.Script:
    r"""Answers `What is N plus 0?` with `\boxed{N}`."""

    def play(prompt: list[int], _: Any) -> fake_vllm.Played:
        number = small_tokenizer.decode(prompt).split("What is ")[1].split()[0]
        return [*small_tokenizer.encode(f"\\boxed{{{number}}}"), next(iter(small_tokenizer.end_of_turn_ids))], "stop"

    return play


def test_an_evaluation_on_vllm(
    monkeypatch: pytest.MonkeyPatch, evaluate: Any, model: str, right: Any, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    fake = fake_vllm.install(monkeypatch, right)
    (measured,) = evaluate(load, models=(model,), k=2, temperature=0.5, max_new_tokens=50)
    assert measured.results[0].pass_1 == 1.0
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))["backend"]
    assert (record["backend"], record["dtype"], len(record["weights"])) == ("vllm", "bfloat16", 32)
    assert len(fake.asked) == 8
    ids, params = fake.asked[0]
    assert small_tokenizer.decode(ids).endswith("<|im_start|>assistant\n")  # our rendering, as for the embedded engine
    assert (params.temperature, params.top_p, params.max_tokens, params.logprobs) == (0.5, 0.95, 50, None)
    assert set(params.stop_token_ids) == set(small_tokenizer.end_of_turn_ids)
    assert len({asked.seed for _, asked in fake.asked}) == 8
    assert fake.shut_down == 1
    samples = SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()
    assert {s.finish_reason for s in samples} == {"stop"}


def test_it_goes_on_where_vllm_broke(
    monkeypatch: pytest.MonkeyPatch, evaluate: Any, model: str, right: Any, tmp_path: Path
) -> None:
    calls: list[int] = []

    def breaks(prompt: list[int], params: Any) -> fake_vllm.Played:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the card fell off")
        return right(prompt, params)

    fake = fake_vllm.install(monkeypatch, breaks)
    with pytest.raises(EngineFailure, match="the card fell off"):
        evaluate(load, models=(model,))
    assert fake.shut_down == 1
    assert len(SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()) == 2
    again = fake_vllm.install(monkeypatch, right)
    (measured,) = evaluate(load, models=(model,))
    assert (measured.results[0].n, len(again.asked)) == (4, 2)
    assert again.options["dtype"] == "bfloat16"  # what was recorded, not what vLLM would choose now


def test_a_folder_of_another_backend_is_refused(
    monkeypatch: pytest.MonkeyPatch, evaluate: Any, loader: Any, model: str, right: Any
) -> None:
    scripted, _ = loader(lambda *_: "\\boxed{0}")
    evaluate(scripted)
    fake_vllm.install(monkeypatch, right)
    with pytest.raises(RunFolderError, match=r"holds the evaluation of backend torch.*not of backend vllm"):
        evaluate(load, models=(model,))


def test_stop_strings_reach_vllm(monkeypatch: pytest.MonkeyPatch, evaluate: Any, model: str, right: Any) -> None:
    fake = fake_vllm.install(monkeypatch, right)
    evaluate(load, models=(model,), prompting="r1", limit=1, max_new_tokens=20)
    assert fake.asked[0][1].stop == ["\nUser:"]


def test_the_command(
    monkeypatch: pytest.MonkeyPatch, model: str, right: Any, questions: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["eval", "--model", model, "--bench", "gsm8k", "--data", f"gsm8k={questions}", "--engine", "vllm"]
    words += ["--out", str(tmp_path / "o"), "--max-new-tokens", "30"]
    fake_vllm.hide(monkeypatch)
    assert main.main([*words, "--data", "gsm8k=/nowhere"]) == 2  # before data is looked for
    assert "pip install -e '.[vllm]'" in capsys.readouterr().err
    monkeypatch.undo()
    fake = fake_vllm.install(monkeypatch, right)
    assert main.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"][model]["default"]["gsm8k"]["pass@1"] == 1.0
    with pytest.raises(SystemExit):
        main.main([*words, "--endpoint", "http://127.0.0.1:9/v1"])
    assert "not allowed with argument" in capsys.readouterr().err
    assert main.main(["sample", "--model", model, "--engine", "vllm", "--json", "What is 7 plus 0?"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert (sampled["text"], sampled["finish_reason"]) == ("\\boxed{7}", "stop")
    assert sampled["logprob"] == -0.5 * sampled["tokens"]
    assert main.main(["sample", "--model", model, "--engine", "vllm", "--top-p", "0.5", "--json", "What is 7 ?"]) == 0
    assert json.loads(capsys.readouterr().out)["logprob"] is None  # vLLM does not say
    assert fake.options["kv_cache_memory_bytes"] > 0
