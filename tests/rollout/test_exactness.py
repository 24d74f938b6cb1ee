"""Engine and trainer agree to the last bit: the log-probabilities that sampling reported are those of the policy."""

import contextlib
import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rethink.kernels.layers import LayerStack
from rethink.kernels.native import ops
from rethink.kernels.native.library import status
from rethink.kernels.trace import watching
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import parse_hf_config
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.rollout.engines.torch import TorchEngine
from rethink.types import Completion, GenerationRequest, SamplingParams

DTYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(not ops.usable(torch.empty(0, dtype=dtype)), reason=f"no native kernels: {status()}"),
    )
    for dtype in (torch.bfloat16, torch.float32)
]
pytestmark = pytest.mark.parametrize("dtype", DTYPES, ids=["bf16", "fp32"])
SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 96}),
    ("Qwen2", {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 16, "hidden_size": 112}),
    ("Qwen3", {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 48, "hidden_size": 80}),
]


def make(family: str, overrides: dict[str, Any], dtype: torch.dtype) -> Decoder:
    values = {"vocab_size": 211, "intermediate_size": 150, "num_hidden_layers": 3, "max_position_embeddings": 512}
    config = getattr(transformers, f"{family}Config")(**(values | overrides))
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.12)
    parsed = parse_hf_config(config.to_dict(), "test").config
    assert parsed is not None
    return Decoder(parsed, dict(model.state_dict()), dtype)


def requests(dice: random.Random) -> list[GenerationRequest]:
    """Prompts that share beginnings of any length, groups and limits of any size, several temperatures."""
    start = [dice.randrange(211) for _ in range(70)]
    made = []
    for i in range(14):
        prompt = start[: dice.choice([0, 5, 16, 37, 64, 70])] + [
            dice.randrange(211) for _ in range(dice.randrange(1, 40))
        ]
        params = SamplingParams(temperature=dice.choice([0.7, 1.0, 1.3]), max_new_tokens=dice.randrange(1, 90))
        made.append(GenerationRequest(tuple(prompt), tuple(range(100 * i, 100 * i + dice.randrange(1, 12))), params))
    return made


def logprobs_of(model: Decoder, asked: list[GenerationRequest], results: list[list[Completion]]) -> dict[float, Any]:
    """By temperature: what the trainer finds, and what the engine reported."""
    found = {}
    for temperature in sorted({r.params.temperature for r in asked}):
        chosen = [(r, c) for r, c in zip(asked, results, strict=True) if r.params.temperature == temperature]
        batch = pack([PackedGroup(r.prompt_ids, [x.token_ids.tolist() for x in c]) for r, c in chosen])
        trainer, _ = model.completion_logprobs(batch, temperature)
        found[temperature] = trainer.numpy(), np.concatenate([x.logprobs for _, c in chosen for x in c])
    return found


@pytest.mark.parametrize(("family", "overrides"), SHAPES, ids=[name for name, _ in SHAPES])
def test_log_probabilities_are_equal_to_the_bit(family: str, overrides: dict[str, Any], dtype: torch.dtype) -> None:
    """More than ten thousand tokens over the three families, in batches of any size, ended in any order."""
    model, dice = make(family, overrides, dtype), random.Random(7)
    tokens = 0
    for options in ({}, {"max_concurrent": 5}, {"max_concurrent": 37, "prefill_tokens": 50}):
        asked = requests(dice)
        results = TorchEngine(model, lambda _: "", **options).generate(asked)
        for trainer, engine in logprobs_of(model, asked, results).values():
            np.testing.assert_array_equal(trainer, engine)
            tokens += len(engine)
    assert tokens > 3500


@pytest.mark.parametrize(("family", "overrides"), SHAPES, ids=[name for name, _ in SHAPES])
def test_layers_in_one_call_are_the_calls_one_by_one(
    family: str, overrides: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = make(family, overrides, dtype), requests(random.Random(5))
    calls: list[str] = []
    whole = LayerStack.__call__
    monkeypatch.setattr(LayerStack, "__call__", lambda *a: (calls.append("stack"), whole(*a))[1])
    together = TorchEngine(model, lambda _: "").generate(asked)
    assert calls, "the stack is not used"
    calls.clear()
    with watching(lambda name, _: (calls.append(name), contextlib.nullcontext())[1]):
        apart = TorchEngine(model, lambda _: "").generate(asked)
    assert ("rt_gemm" if dtype == torch.bfloat16 else "rt_gemm_f32") in calls
    assert "stack" not in calls
    for a, b in zip((c for r in together for c in r), (c for r in apart for c in r), strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
        np.testing.assert_array_equal(a.logprobs, b.logprobs)


def test_samples_are_the_same_in_any_company(dtype: torch.dtype) -> None:
    model, asked = make(*SHAPES[0], dtype), requests(random.Random(1))
    expected = TorchEngine(model, lambda _: "").generate(asked)
    budget = 60 * 2 * 3 * 2 * 32 * 2 * 16  # sixty pages: most samples wait
    for options in ({"max_concurrent": 3}, {"kv_budget_bytes": budget}, {"prefill_tokens": 9}):
        results = TorchEngine(model, lambda _: "", **options).generate(asked)
        for samples, wanted in zip(results, expected, strict=True):
            for actual, other in zip(samples, wanted, strict=True):
                assert actual.token_ids.tolist() == other.token_ids.tolist()
                np.testing.assert_array_equal(actual.logprobs, other.logprobs)


def test_the_embedded_model_agrees_too(embedded: Any, dtype: torch.dtype) -> None:
    from rethink.model.build import build_model

    model = build_model(embedded, str(dtype).removeprefix("torch."), "cpu")
    assert isinstance(model, Decoder)
    prompts = [embedded.tokenizer.encode(f"Question: what is {n} + {n + 3}? Answer:") for n in (2, 31)]
    params = SamplingParams(max_new_tokens=24)
    asked = [GenerationRequest(tuple(p), (1, 2, 3), params) for p in prompts]
    results = TorchEngine(model, embedded.tokenizer.decode).generate(asked)
    for trainer, engine in logprobs_of(model, asked, results).values():
        np.testing.assert_array_equal(trainer, engine)
