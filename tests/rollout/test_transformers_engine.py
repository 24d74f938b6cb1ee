"""The engine on `transformers`: its tokens are those of `generate`, its draws those of the embedded engine."""

from typing import Any

import numpy as np
import pytest
import torch

from rethink.errors import UsageError
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import parse_hf_config
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.transformers_model import TransformersModel
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.engines.transformers import TransformersEngine
from rethink.types import Completion, GenerationRequest, SamplingParams
from tests.models import GPT2_SHAPE, NEOX_SHAPE, SHAPE, matrices_and_biases, some_prompt, spell, tiny_model, tokens_of

VOCABULARY = 53
CONTEXT = 96
ROOM = {**SHAPE, "max_position_embeddings": CONTEXT}
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", ROOM),
    "gpt2": ("GPT2", {**GPT2_SHAPE, "n_positions": CONTEXT}),
    "gpt-neox": ("GPTNeoX", {**NEOX_SHAPE, "max_position_embeddings": CONTEXT}),
    # A window shorter than the prompts, and soft caps.
    "gemma2": ("Gemma2", {**ROOM, "sliding_window": 8}),
    # Biases by distance in place of positions.
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    # Convolutions beside attention: states that know no positions.
    "lfm2": ("Lfm2", {**ROOM, "layer_types": ["conv", "full_attention"]}),
    # No cache that the engine can use.
    "mamba": ("Mamba", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}),
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(family: str) -> TransformersModel:
    """A tiny model with random weights."""
    name, values = FAMILY[family]
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    # A tied head would make a random model repeat its last token.
    module = tiny_model(name, seed=2, std=0.3, mean=matrices_and_biases, tie_word_embeddings=False, **common, **values)
    return TransformersModel(module, torch.float32)


@pytest.fixture(scope="module")
def model() -> TransformersModel:
    return make("gpt-neox")


def engine_of(model: TransformersModel, **options: Any) -> TransformersEngine:
    return TransformersEngine(model, spell, **options)


def prompt_of(size: int, seed: int = 0) -> tuple[int, ...]:
    return some_prompt(size, VOCABULARY, seed, first=3)


def mixed_requests() -> list[GenerationRequest]:
    """Prompts (two of one length, one twice), samples, limits and sampling differ; stop tokens end some early."""
    stops = (3, 17, 29, 41)
    return [
        GenerationRequest(prompt_of(9), (1, 2, 3), SamplingParams(max_new_tokens=20, stop_token_ids=stops)),
        GenerationRequest(prompt_of(1), (4,), SamplingParams(max_new_tokens=1)),
        GenerationRequest(prompt_of(33), (5, 6, 7, 8, 9), SamplingParams(0.8, 0.9, 12, 25, (), stops)),
        GenerationRequest(prompt_of(9), (1, 1, 10), SamplingParams(0.7, max_new_tokens=16, stop_token_ids=stops)),
        GenerationRequest(prompt_of(17), (), SamplingParams(max_new_tokens=5)),
        GenerationRequest(prompt_of(9, 1), (11, 12), SamplingParams(0.0, max_new_tokens=17)),
        GenerationRequest(prompt_of(20), (13, 14), SamplingParams(1.5, 1.0, 0, 18, ("ab", "z"), stops)),
    ]


# --- the model's tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY)
def test_greedy_tokens_equal_those_of_generate(family: str) -> None:
    model = make(family)
    prompts = [prompt_of(size) for size in (1, 5, 16)] + [prompt_of(16, 1)]
    params = SamplingParams(temperature=0.0, max_new_tokens=24)
    results = engine_of(model).generate([GenerationRequest(p, (0, 1), params) for p in prompts])
    for prompt, samples in zip(prompts, tokens_of(results), strict=True):
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        out = model.module.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        expected = out[0, len(prompt) :].tolist()
        assert samples == [expected, expected]
    seen = {tuple(ids[i : i + 2]) for samples in tokens_of(results) for ids in samples for i in range(23)}
    assert len(seen) > 8, "the model only repeats itself, so this shows little"


@pytest.mark.parametrize("family", FAMILY)
def test_logprobs_are_those_of_training(family: str) -> None:
    model, requests = make(family), mixed_requests()
    results = engine_of(model, max_concurrent=5).generate(requests)
    for request, samples in zip(requests, results, strict=True):
        batch = pack([PackedGroup(request.prompt_ids, [c.token_ids.tolist() for c in samples])])
        expected, _ = model.completion_logprobs(batch, request.params.temperature or 1.0)
        actual = np.concatenate([np.zeros(0, np.float32), *(c.logprobs for c in samples)])
        np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=3e-5)
        for sample in samples:
            if request.params.temperature == 0:
                assert not sample.sampled_logprobs.any()
            elif not request.params.truncated:
                np.testing.assert_array_equal(sample.sampled_logprobs, sample.logprobs)


def test_truncated_logprobs_are_those_of_the_kept_tokens(model: TransformersModel) -> None:
    prompt, params = prompt_of(12), SamplingParams(0.8, top_k=6, max_new_tokens=15)
    for sample in engine_of(model).generate([GenerationRequest(prompt, (1, 2), params)])[0]:
        ids = torch.from_numpy(sample.token_ids).long()
        with torch.no_grad():
            logits = model.module(torch.tensor([[*prompt, *ids.tolist()]])).logits[0, len(prompt) - 1 : -1] / 0.8
        chosen = logits.gather(1, ids[:, None])[:, 0]
        kept = (chosen - logits.topk(6).values.logsumexp(-1)).numpy()
        np.testing.assert_allclose(sample.sampled_logprobs, kept, rtol=0, atol=1e-5)
        np.testing.assert_allclose(sample.logprobs, (chosen - logits.logsumexp(-1)).numpy(), rtol=0, atol=1e-5)


def test_samples_are_those_of_the_embedded_engine() -> None:
    """Same seeds, same draws. Logits differ in their last bits (fp32), so a draw within about 1e-6 of the border

    between two tokens could fall either way; none of these seeds does.
    """
    model = make("llama")
    config = parse_hf_config(model.module.config.to_dict(), "test").config
    assert config is not None
    decoder = Decoder(config, {n: t.clone() for n, t in model.module.state_dict().items()}, torch.float32)
    expected = TorchEngine(decoder, spell).generate(mixed_requests())
    results = engine_of(model).generate(mixed_requests())
    assert tokens_of(results) == tokens_of(expected)
    for samples, wanted in zip(results, expected, strict=True):
        for actual, other in zip(samples, wanted, strict=True):
            assert (actual.text, actual.finish_reason) == (other.text, other.finish_reason)
            np.testing.assert_allclose(actual.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(actual.sampled_logprobs, other.sampled_logprobs, rtol=1e-5, atol=1e-5)


# --- what shares the batch changes nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY)
def test_a_sample_depends_on_its_seed_alone(family: str) -> None:
    model, requests = make(family), mixed_requests()
    alone = [
        [tokens_of(engine_of(model).generate([GenerationRequest(r.prompt_ids, (s,), r.params)]))[0][0] for s in r.seeds]
        for r in requests
    ]
    for concurrent in (1, 2, 5, None):
        assert tokens_of(engine_of(model, max_concurrent=concurrent).generate(requests)) == alone
    assert tokens_of(engine_of(model).generate(requests[::-1])) == alone[::-1]


def test_prompts_are_computed_once_and_ended_sequences_no_more(
    model: TransformersModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    logits = TransformersModel.logits

    def watch(self: TransformersModel, ids: torch.Tensor, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return logits(self, ids, *args, **options)

    monkeypatch.setattr(TransformersModel, "logits", watch)
    requests = [
        GenerationRequest(prompt_of(9), (1, 2, 3), SamplingParams(max_new_tokens=2)),
        GenerationRequest(prompt_of(9, 1), (4, 5), SamplingParams(max_new_tokens=4)),
        GenerationRequest(prompt_of(4), (6,), SamplingParams(max_new_tokens=1)),
    ]
    engine_of(model).generate(requests)
    assert shapes == [(2, 9), (5, 1), (2, 1), (2, 1), (1, 4)]
    shapes.clear()
    engine_of(model, max_concurrent=4).generate(requests)
    assert shapes == [(2, 9), (4, 1), (1, 1), (1, 1), (1, 9), (1, 1), (1, 1), (1, 1), (1, 4)]


def test_at_most_sixteen_run_at_once_unless_told_otherwise(model: TransformersModel) -> None:
    for limit in (None, 3):
        engine = engine_of(model, max_concurrent=limit)
        assert engine._max_concurrent == (limit or 16)


# --- requests ------------------------------------------------------------------------------------------------------


def test_wrong_requests_are_refused_before_anything_is_generated(model: TransformersModel) -> None:
    good = GenerationRequest(prompt_of(4), (1, 2), SamplingParams(max_new_tokens=4))
    finished: list[int] = []
    engine = engine_of(model)
    assert engine.context == CONTEXT
    for bad, message in [
        (GenerationRequest((), (1,), SamplingParams()), "request 1 has an empty prompt"),
        (GenerationRequest(prompt_of(4), (1,), SamplingParams(max_new_tokens=0)), "at least 1"),
        (
            GenerationRequest(prompt_of(CONTEXT - 10), (1,), SamplingParams(max_new_tokens=11)),
            f"context is {CONTEXT}; .* max_new_tokens to 10 or less",
        ),
    ]:
        with pytest.raises(UsageError, match=message):
            engine.generate([good, bad], lambda *_: finished.append(1))
    assert finished == []


def test_nothing_asked_is_nothing_done(model: TransformersModel) -> None:
    assert engine_of(model).generate([]) == []
    assert engine_of(model).generate([GenerationRequest(prompt_of(3), (), SamplingParams(max_new_tokens=4))]) == [[]]


def test_context_is_used_to_the_last_token() -> None:
    request = GenerationRequest(prompt_of(CONTEXT - 6), (1,), SamplingParams(max_new_tokens=6))
    (sample,) = engine_of(make("gpt2")).generate([request])[0]
    assert len(sample.token_ids) == 6


# --- ends ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free(model: TransformersModel) -> Completion:
    """A completion of 20 tokens that nothing stops."""
    return stopped(model)


def stopped(model: TransformersModel, **options: Any) -> Completion:
    params = SamplingParams(**({"max_new_tokens": 20} | options))
    return engine_of(model).generate([GenerationRequest(prompt_of(6), (5,), params)])[0][0]


def test_length_ends_a_completion(model: TransformersModel, free: Completion) -> None:
    assert free.finish_reason == "length"
    assert len(free.token_ids) == 20
    assert free.text == spell(free.token_ids.tolist())
    assert (free.token_ids.dtype, free.logprobs.dtype, free.sampled_logprobs.dtype) == (
        np.int32,
        np.float32,
        np.float32,
    )
    assert free.seconds > 0
    assert stopped(model, max_new_tokens=7).token_ids.tolist() == free.token_ids[:7].tolist()


@pytest.mark.parametrize("place", [0, 9, 19])
def test_stop_token_ends_a_completion_and_is_kept(model: TransformersModel, free: Completion, place: int) -> None:
    ids = free.token_ids.tolist()
    end = ids.index(ids[place])
    sample = stopped(model, stop_token_ids=(ids[place], VOCABULARY + 5))
    assert sample.token_ids.tolist() == ids[: end + 1]
    assert sample.finish_reason == "stop"
    assert sample.text == spell(ids[:end])
    assert len(sample.logprobs) == len(sample.sampled_logprobs) == end + 1


def test_stop_string_over_several_tokens_ends_a_completion(model: TransformersModel, free: Completion) -> None:
    ids = free.token_ids.tolist()
    wanted = spell(ids[8:11])
    sample = stopped(model, stop_strings=("#", wanted))
    end = next(n for n in range(1, 21) if wanted in spell(ids[:n]))
    assert sample.token_ids.tolist() == ids[:end]
    assert sample.finish_reason == "stop"
    assert sample.text == free.text[: free.text.index(wanted)]


def test_ends_are_told_as_they_come(model: TransformersModel) -> None:
    requests, order, told = mixed_requests(), [], []

    def on_finish(request: int, sample: int, completion: Completion) -> None:
        order.append((request, sample))
        told.append(completion)

    results = engine_of(model).generate(requests, on_finish)
    assert sorted(order) == [(i, j) for i, r in enumerate(requests) for j in range(r.n)]
    assert all(results[i][j] is c for (i, j), c in zip(order, told, strict=True))
    together = [len(c.token_ids) for (i, _), c in zip(order, told, strict=True) if i in (0, 3, 5)]  # one length
    assert together == sorted(together)
    assert len(set(together)) > 2


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_and_generation_take_turns(family: str) -> None:
    """What a module keeps from generation takes part in the backward pass, and new weights are used at once."""
    model = make(family)
    table: list[torch.Tensor] = []

    def scale(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
        if not table:  # as modules that keep a table of angles or biases once it is needed
            table.append(torch.full((32,), 1.1))
        return out * table[0]

    model.module.get_input_embeddings().register_forward_hook(scale)
    engine = engine_of(model)
    request = GenerationRequest(prompt_of(12), (1, 2), SamplingParams(max_new_tokens=8))
    before = tokens_of(engine.generate([request]))
    batch = pack([PackedGroup(request.prompt_ids, before[0])])
    loss, *_ = model.completion_loss(batch, lambda x, _: x.sum())
    loss.backward()
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            assert parameter.grad is not None
            parameter += 0.5 * parameter.grad.sign()
    engine.publish(model, 1)
    after = tokens_of(engine.generate([request]))
    assert after == tokens_of(engine_of(model).generate([request]))
    assert after != before


def test_an_engine_that_was_interrupted_works_on(model: TransformersModel) -> None:
    engine = engine_of(model, max_concurrent=4)
    expected = tokens_of(engine.generate(mixed_requests()))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(mixed_requests(), interrupt)
    assert torch.is_grad_enabled()
    assert tokens_of(engine.generate(mixed_requests())) == expected
