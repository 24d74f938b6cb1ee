"""`rethink sample` on a made-up generator: what it asks for and what it prints."""

import io
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rethink.cli import main
from rethink.recipe.base import HeldOut
from rethink.rollout import one_prompt
from rethink.rollout.one_prompt import Answered
from rethink.store.as_trained import AsTrained
from rethink.types import Completion, Prompt, SamplingParams

TRAINED = AsTrained(
    kind="grpo",
    recipe="little",
    recipe_hash="0" * 64,
    held_out=HeldOut(problems=4, temperature=0.0, max_new_tokens=12, stop_strings=("User:",)),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the generator was asked for; it answers `text 1`, `text 2`, …"""
    asked: list[dict[str, Any]] = []

    def sample_text(model: str, prompt: str, *, params: Any, **options: Any) -> Answered:
        asked.append({"model": model, "prompt": prompt, "params": params(None), "trained": params(TRAINED), **options})
        logprobs = np.array([-0.5, -0.25], dtype=np.float32)
        completions = [
            Completion(np.array([7, 8], dtype=np.int32), f"text {number}", logprobs, logprobs, "length")
            for number in range(1, len(options["seeds"]) + 1)
        ]
        return Answered(Prompt("", ()), completions, None)

    monkeypatch.setattr(one_prompt, "sample_text", sample_text)
    return asked


def test_options_reach_the_generator(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    words = "sample --model m --temperature 0.5 --top-p 0.9 --top-k 5 --max-new-tokens 9 --seed 3 --system s hello"
    assert main.main([*words.split(), "--engine", "vllm"]) == 0
    params = SamplingParams(temperature=0.5, top_p=0.9, top_k=5, max_new_tokens=9)
    assert calls == [
        {
            "model": "m",
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
            "seeds": range(3, 4),
            "params": params,
            "trained": replace(params, stop_strings=("User:",)),
            "engine": "vllm",
            "as_is": False,
        }
    ]
    assert capsys.readouterr().out == "text 1\n"


def test_a_run_s_model_is_sampled_as_the_run_evaluated_it(calls: list[dict[str, Any]]) -> None:
    main.main(["sample", "hello"])
    main.main(["sample", "--n", "2", "hello"])
    main.main(["sample", "--temperature", "0.5", "--max-new-tokens", "3", "hello"])
    assert [call["params"] for call in calls[:2]] == [SamplingParams(temperature=0.7)] * 2
    drawn = [call["trained"] for call in calls]
    assert [(params.temperature, params.max_new_tokens) for params in drawn] == [(0.0, 12), (0.7, 12), (0.5, 3)]
    assert {params.stop_strings for params in drawn} == {("User:",)}


def test_several_completions_are_told_apart(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["sample", "--n", "2", "hello"])
    assert capsys.readouterr().out.splitlines() == [
        "--- 1 of 2: 2 tokens, length ---",
        "text 1",
        "--- 2 of 2: 2 tokens, length ---",
        "text 2",
    ]


def test_json_is_an_object_a_line(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["sample", "--n", "2", "--json", "hello"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["text 1", "text 2"]
    assert lines[0] == {
        "prefill": "", "answer": None,
        "text": "text 1", "token_ids": [7, 8], "tokens": 2, "logprob": -0.75, "finish_reason": "length"
    }  # fmt: skip


def test_a_dash_reads_standard_input(calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    main.main(["sample", "--raw", "-"])
    assert calls[0]["prompt"] == "from a pipe"


def test_an_empty_prompt_is_refused(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["sample", ""]) == 2
    assert "The prompt is empty" in capsys.readouterr().err
    assert calls == []
