"""The embedded engine: tokens, log-probabilities and ends are those of the model alone, whatever shares the batch."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rethink.errors import RunFailure, UsageError
from rethink.kernels.attention import Segment
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.pages import bytes_per_page, own_pages, pages_of, plan_pool
from rethink.rollout.stopping import end_of, text_of
from rethink.types import Completion, GenerationRequest, SamplingParams
from tests.models import SHAPE, decoder_of, llama3_rope, some_prompt, spell, tiny_model, tokens_of

VOCABULARY = 53
CONTEXT = 160
FAMILY: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"rope_parameters": llama3_rope(), "tie_word_embeddings": True}),
    ("Qwen2", {}),
    ("Qwen3", {}),
    ("Mistral", {"sliding_window": CONTEXT, "num_key_value_heads": 1}),
]
IDS = ["llama", "qwen2", "qwen3", "mistral"]


def make_models(family: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> tuple[Any, Decoder]:
    """A tiny random model of `transformers`, and our decoder with its weights."""
    values = SHAPE | {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
    }
    model = tiny_model(family, seed=2, **(values | overrides))
    return model, decoder_of(model, dtype)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exact() -> Decoder:
    """In fp64, so that no draw hangs on the rounding of products of another shape."""
    return make_models("Qwen2", torch.float64)[1]


def engine_of(decoder: Decoder, **options: Any) -> TorchEngine:
    return TorchEngine(decoder, spell, **options)


def prompt_of(size: int, seed: int = 0) -> tuple[int, ...]:
    return some_prompt(size, VOCABULARY, seed)


def greedy(tokens: int, **options: Any) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=tokens, **options)


def mixed_requests() -> list[GenerationRequest]:
    """Prompts, numbers of samples, limits and sampling all differ; stop tokens end some samples early."""
    stops = (3, 17, 29, 41)
    return [
        GenerationRequest(prompt_of(9), (1, 2, 3), SamplingParams(max_new_tokens=17, stop_token_ids=stops)),
        GenerationRequest(prompt_of(1), (4,), SamplingParams(max_new_tokens=1)),
        GenerationRequest(prompt_of(33), (5, 6, 7, 8, 9), SamplingParams(0.8, 0.9, 12, 30, (), stops)),
        GenerationRequest(prompt_of(9), (1, 1, 10), SamplingParams(max_new_tokens=17, stop_token_ids=stops)),
        GenerationRequest(prompt_of(17), (), SamplingParams(max_new_tokens=5)),
        GenerationRequest(prompt_of(16), (11, 12), greedy(14)),
        GenerationRequest(prompt_of(50), (13, 14), SamplingParams(1.5, 1.0, 0, 18, ("ab", "z"), stops)),
    ]


@pytest.fixture(scope="module")
def mixed(exact: Decoder) -> list[list[Completion]]:
    """Each sample generated with nothing else in the batch."""
    alone: list[list[Completion]] = []
    for r in mixed_requests():
        one = lambda seed, r=r: GenerationRequest(r.prompt_ids, (seed,), r.params)  # noqa: E731
        alone.append([engine_of(exact).generate([one(seed)])[0][0] for seed in r.seeds])
    return alone


# --- the model's tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "overrides"), FAMILY, ids=IDS)
def test_greedy_tokens_equal_those_of_transformers(family: str, overrides: dict[str, Any]) -> None:
    model, decoder = make_models(family, **overrides)
    prompts = [prompt_of(size) for size in (1, 5, 16, 40)]
    results = engine_of(decoder).generate([GenerationRequest(p, (0, 1), greedy(40)) for p in prompts])
    for prompt, samples in zip(prompts, results, strict=True):
        settings_ = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings_)
        expected = out[0, len(prompt) :].tolist()
        assert len(set(expected)) > 3, "the model only repeats itself, so this shows little"
        for sample in samples:
            actual = sample.token_ids.tolist()
            if actual != expected:  # then the first difference must be a tie
                place = next(i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if a != b)
                with torch.no_grad():
                    logits = model(torch.tensor([[*prompt, *expected[:place]]])).logits[0, -1]
                assert abs(float(logits[actual[place]] - logits[expected[place]])) < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize(("family", "overrides"), FAMILY, ids=IDS)
def test_logprobs_equal_those_of_the_forward_pass(family: str, overrides: dict[str, Any], temperature: float) -> None:
    model, decoder = make_models(family, **overrides)
    params = SamplingParams(temperature=temperature, top_k=20, max_new_tokens=30, stop_token_ids=(5,))
    prompts = [prompt_of(size) for size in (1, 16, 45)]
    results = engine_of(decoder, max_concurrent=5).generate([GenerationRequest(p, (0, 1, 2), params) for p in prompts])
    batch = pack(
        [PackedGroup(p, [c.token_ids.tolist() for c in samples]) for p, samples in zip(prompts, results, strict=True)]
    )
    expected, _ = decoder.completion_logprobs(batch, temperature or 1.0)
    actual = np.concatenate([c.logprobs for samples in results for c in samples])
    np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=1e-4)
    # And against `transformers`, with no code in common.
    sample = results[2][1]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompts[2], *sample.token_ids.tolist()]])).logits[0, len(prompts[2]) - 1 : -1]
    logprobs = (logits / (temperature or 1.0)).log_softmax(-1)
    chosen = logprobs.gather(1, torch.from_numpy(sample.token_ids).long()[:, None])[:, 0]
    np.testing.assert_allclose(sample.logprobs, chosen.numpy(), rtol=0, atol=1e-4)
    if temperature == 0:
        assert not sample.sampled_logprobs.any()
    else:
        kept = logits.topk(20).values / temperature
        cut = logits.gather(1, torch.from_numpy(sample.token_ids).long()[:, None])[:, 0] / temperature
        np.testing.assert_allclose(sample.sampled_logprobs, (cut - kept.logsumexp(-1)).numpy(), rtol=0, atol=1e-4)


def test_without_truncation_both_logprobs_are_the_same(exact: Decoder) -> None:
    params = SamplingParams(max_new_tokens=12)
    (samples,) = engine_of(exact).generate([GenerationRequest(prompt_of(4), (1, 2), params)])
    for sample in samples:
        np.testing.assert_array_equal(sample.logprobs, sample.sampled_logprobs)


# --- what shares the batch changes nothing -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_concurrent": 1},
        {"max_concurrent": 2},
        {"max_concurrent": 3, "prefill_tokens": 8},
        {"max_concurrent": 7, "prefill_tokens": 1},
        {"max_concurrent": 1000, "prefill_tokens": 40},
    ],
    ids=str,
)
def test_a_sample_depends_on_its_seed_alone(
    exact: Decoder, mixed: list[list[Completion]], options: dict[str, int]
) -> None:
    engine, requests = engine_of(exact, **options), mixed_requests()
    results = engine.generate(requests)
    assert tokens_of(results) == tokens_of(mixed)
    for samples, expected in zip(results, mixed, strict=True):
        for actual, wanted in zip(samples, expected, strict=True):
            assert (actual.text, actual.finish_reason) == (wanted.text, wanted.finish_reason)
            np.testing.assert_allclose(actual.logprobs, wanted.logprobs, rtol=0, atol=1e-5)
            np.testing.assert_allclose(actual.sampled_logprobs, wanted.sampled_logprobs, rtol=0, atol=1e-5)
    assert tokens_of(engine.generate(requests)) == tokens_of(mixed)  # with caches that hold the first run's values
    assert tokens_of(engine.generate(requests[::-1])) == tokens_of(mixed)[::-1]
    assert tokens_of(engine.generate(requests[2:4])) == tokens_of(mixed)[2:4]


@pytest.mark.parametrize("share", [1.0, 1.5, 3.0, 8.0])
def test_a_small_budget_makes_samples_wait_and_changes_nothing(
    exact: Decoder, mixed: list[list[Completion]], share: float
) -> None:
    requests = mixed_requests()
    real = [r for r in requests if r.n]
    least = max(pages_of(len(r.prompt_ids)) + own_pages(r) for r in real)
    budget = int(bytes_per_page(exact.config, exact.dtype) * least * share)
    plan = plan_pool(requests, exact.config, exact.dtype, budget, None)
    engine = engine_of(exact, kv_budget_bytes=budget)
    assert tokens_of(engine.generate(requests)) == tokens_of(mixed)
    assert 0 < plan.pages * bytes_per_page(exact.config, exact.dtype) <= budget


def test_samples_differ_by_seed_and_agree_without_one(exact: Decoder) -> None:
    request = GenerationRequest(prompt_of(6), (1, 2, 1, 3), SamplingParams(max_new_tokens=12))
    (samples,) = tokens_of(engine_of(exact).generate([request]))
    assert samples[0] == samples[2]
    assert len({tuple(s) for s in samples}) == 3


def least_budget(decoder: Decoder, prompt: int, own: int) -> int:
    """Bytes of one sequence, whose last token needs no place, and of the page in which its prompt ends."""
    pages = math.ceil((prompt + own - 1) / 16) + (1 if prompt % 16 and own > 1 else 0)
    return bytes_per_page(decoder.config, decoder.dtype) * pages


@pytest.mark.parametrize("groups", [1, 3])
def test_the_least_budget_is_that_of_one_sequence(exact: Decoder, groups: int) -> None:
    requests = [GenerationRequest(prompt_of(20, g), (1, 2), SamplingParams(max_new_tokens=9)) for g in range(groups)]
    least = least_budget(exact, 20, 9)
    expected = tokens_of(engine_of(exact).generate(requests))
    assert tokens_of(engine_of(exact, kv_budget_bytes=least).generate(requests)) == expected
    with pytest.raises(UsageError, match=r"needs .* MiB .* rollout\.kv_budget_gb"):
        engine_of(exact, kv_budget_bytes=least - 1).generate(requests)


@pytest.mark.parametrize("concurrent", [1, 2, 3, None])
def test_samples_that_end_at_once_leave_room_for_all_others(exact: Decoder, concurrent: int | None) -> None:
    """Every sample ends with its first token, so the batch is empty again and again."""
    requests = [
        GenerationRequest(prompt_of(5, g), tuple(range(g, g + 8)), SamplingParams(max_new_tokens=1)) for g in range(3)
    ]
    results = engine_of(exact, max_concurrent=concurrent).generate(requests)
    assert [len(samples) for samples in results] == [8, 8, 8]
    assert tokens_of(results) == tokens_of(engine_of(exact, max_concurrent=100).generate(requests))


@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=5),
    concurrent=st.integers(1, 6),
    prefill_tokens=st.integers(1, 30),
    stops=st.integers(0, VOCABULARY),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_sample_comes_back(
    exact: Decoder, shapes: list[tuple[int, int, int]], concurrent: int, prefill_tokens: int, stops: int
) -> None:
    requests = [
        GenerationRequest(
            prompt_of(size), tuple(range(n)), SamplingParams(max_new_tokens=limit, stop_token_ids=tuple(range(stops)))
        )
        for size, n, limit in shapes
    ]
    finished: list[tuple[int, int]] = []
    engine = engine_of(exact, max_concurrent=concurrent, prefill_tokens=prefill_tokens)
    results = engine.generate(requests, lambda request, sample, _: finished.append((request, sample)))
    assert [len(samples) for samples in results] == [r.n for r in requests]
    assert sorted(finished) == [(i, j) for i, r in enumerate(requests) for j in range(r.n)]
    for request, samples in zip(requests, results, strict=True):
        for sample in samples:
            *before, last = sample.token_ids.tolist()
            assert len(before) < request.params.max_new_tokens
            assert not any(t < stops for t in before)
            assert sample.finish_reason == ("stop" if last < stops else "length")


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 5, 16, 63, 64, 65, 100])
def test_a_prompt_in_pieces_is_the_whole_prompt(exact: Decoder, limit: int) -> None:
    requests = [GenerationRequest(prompt_of(size), (3, 4), greedy(6)) for size in (64, 2, 100, 7)]
    expected = engine_of(exact).generate(requests)
    results = engine_of(exact, prefill_tokens=limit).generate(requests)
    assert tokens_of(results) == tokens_of(expected)
    for actual, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(actual[0].logprobs, wanted[0].logprobs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"prefill_tokens": 7}, {"max_concurrent": 3}], ids=str)
def test_prompts_that_begin_alike_share_what_they_can(exact: Decoder, options: dict[str, int]) -> None:
    """Shared pages change no token; a prompt that is another's beginning, or the same again, still gets its logits."""
    start = prompt_of(48)
    prompts = [start, start[:32], start[:33], (*start, 1, 2), start, (*start[:40], *prompt_of(30, 3)), start[:31]]
    requests = [
        GenerationRequest(p, (7 * i, 7 * i + 1), SamplingParams(max_new_tokens=19)) for i, p in enumerate(prompts)
    ]
    alone = [tokens_of(engine_of(exact).generate([r]))[0] for r in requests]
    assert tokens_of(engine_of(exact, **options).generate(requests)) == alone


def test_wrong_requests_are_refused_before_anything_is_generated(exact: Decoder) -> None:
    good = GenerationRequest(prompt_of(4), (1, 2), SamplingParams(max_new_tokens=4))
    finished: list[int] = []
    engine = engine_of(exact)
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


def test_context_and_window_are_used_to_the_last_token() -> None:
    for family, overrides in (("Llama", {}), ("Mistral", {"sliding_window": 24})):
        _, decoder = make_models(family, **overrides)
        engine = engine_of(decoder)
        size = overrides.get("sliding_window", CONTEXT)
        assert engine.context == size
        request = GenerationRequest(prompt_of(size - 10), (1,), greedy(10))
        (sample,) = engine.generate([request])[0]
        assert len(sample.token_ids) == 10
        with pytest.raises(UsageError, match=f"context is {size}"):
            engine.generate([GenerationRequest(prompt_of(size - 9), (1,), greedy(10))])


def test_nothing_asked_is_nothing_done(exact: Decoder) -> None:
    engine = engine_of(exact)
    assert engine.generate([]) == []
    assert engine.generate([GenerationRequest(prompt_of(3), (), greedy(5))]) == [[]]
    assert isinstance(engine, RolloutEngine)


# --- ends --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free(exact: Decoder) -> Completion:
    """A completion of 30 tokens that nothing stops."""
    request = GenerationRequest(prompt_of(6), (5,), SamplingParams(max_new_tokens=30))
    return engine_of(exact).generate([request])[0][0]


def stopped(exact: Decoder, **options: Any) -> Completion:
    params = SamplingParams(**({"max_new_tokens": 30} | options))
    return engine_of(exact).generate([GenerationRequest(prompt_of(6), (5,), params)])[0][0]


def test_length_ends_a_completion(exact: Decoder, free: Completion) -> None:
    assert free.finish_reason == "length"
    assert len(free.token_ids) == 30
    assert free.text == spell(free.token_ids.tolist())
    assert (free.token_ids.dtype, free.logprobs.dtype, free.sampled_logprobs.dtype) == (
        np.int32,
        np.float32,
        np.float32,
    )
    short = stopped(exact, max_new_tokens=11)
    assert short.token_ids.tolist() == free.token_ids[:11].tolist()
    assert short.finish_reason == "length"


@pytest.mark.parametrize("place", [0, 9, 29])
def test_stop_token_ends_a_completion_and_is_kept(exact: Decoder, free: Completion, place: int) -> None:
    ids = free.token_ids.tolist()
    end = ids.index(ids[place])  # where it stands first
    sample = stopped(exact, stop_token_ids=(ids[place], VOCABULARY + 5))
    assert sample.token_ids.tolist() == ids[: end + 1]
    assert sample.finish_reason == "stop"
    assert sample.text == spell(ids[:end])
    assert len(sample.logprobs) == len(sample.sampled_logprobs) == end + 1
    np.testing.assert_allclose(sample.logprobs, free.logprobs[: end + 1], atol=1e-6)


def test_stop_string_over_several_tokens_ends_a_completion(exact: Decoder, free: Completion) -> None:
    ids = free.token_ids.tolist()
    wanted = spell(ids[12:15])[:-1] if len(spell(ids[14:15])) > 1 else spell(ids[12:15])
    sample = stopped(exact, stop_strings=("#", wanted))
    end = next(n for n in range(1, 31) if wanted in spell(ids[:n]))
    assert sample.token_ids.tolist() == ids[:end]
    assert sample.finish_reason == "stop"
    assert sample.text == free.text[: free.text.index(wanted)]


def as_bytes(ids: Sequence[int]) -> str:
    """Tokens 0-255 are bytes, 256 and 257 longer pieces."""
    longer = {256: b"ab", 257: "é€".encode()}
    return b"".join(longer.get(i) or bytes([i]) for i in ids).decode("utf-8", errors="replace")


@given(
    ids=st.lists(st.sampled_from([*b"aab ", *"€".encode(), 256, 257]), min_size=1, max_size=40),
    stops=st.lists(st.text("ab€é ", min_size=1, max_size=9), max_size=3),
    limit=st.integers(1, 40),
)
@example(ids=list(b"aab"), stops=["b", "aab"], limit=40)  # one token completes both
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(
    ids: list[int], stops: list[str], limit: int
) -> None:
    params = SamplingParams(stop_strings=tuple(stops), stop_token_ids=(32,), max_new_tokens=limit)
    for n in range(1, len(ids) + 1):
        whole = as_bytes(ids[:n])
        reason = end_of(ids[:n], params, as_bytes)
        matched = any(s in whole for s in stops)
        assert reason == ("stop" if ids[n - 1] == 32 or matched else "length" if n >= limit else None)
        if reason is not None:
            text = text_of(ids[:n], reason, params, as_bytes)
            if ids[n - 1] == 32:
                assert text == as_bytes(ids[: n - 1])
            else:  # cut before the first of all stop strings
                assert text == whole[: min([whole.index(s) for s in stops if s in whole], default=None)]
            assert not any(s in text for s in stops)
            break


def test_ends_are_told_in_their_order(exact: Decoder) -> None:
    requests, order, told = mixed_requests(), [], []

    def on_finish(request: int, sample: int, completion: Completion) -> None:
        order.append((request, sample))
        told.append(completion)

    results = engine_of(exact).generate(requests, on_finish)
    assert sorted(order) == [(i, j) for i, r in enumerate(requests) for j in range(r.n)]
    assert all(results[i][j] is c for (i, j), c in zip(order, told, strict=True))
    # All start together here, so the shorter ends first.
    lengths = [len(c.token_ids) for c in told]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 4
    order.clear()
    engine_of(exact, max_concurrent=1).generate(requests, on_finish)
    assert order == [(i, j) for i, r in enumerate(requests) for j in range(r.n)]


def test_an_engine_that_was_interrupted_works_on(exact: Decoder, mixed: list[list[Completion]]) -> None:
    engine = engine_of(exact, max_concurrent=4)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(mixed_requests(), interrupt)
    assert tokens_of(engine.generate(mixed_requests())) == tokens_of(mixed)


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_weights_are_used_once_they_are_told_of(dtype: torch.dtype) -> None:
    _, decoder = make_models("Qwen2", dtype)
    requests = [GenerationRequest(prompt_of(12), (1, 2), SamplingParams(max_new_tokens=8))]
    engine = engine_of(decoder)
    before = tokens_of(engine.generate(requests))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" not in name:
                parameter.copy_(parameter.roll(1, 0))
    engine.publish(decoder, 1)
    after = tokens_of(engine.generate(requests))
    assert after == tokens_of(engine_of(decoder).generate(requests))
    assert after != before


def test_nothing_is_kept_between_generations(exact: Decoder, mixed: list[list[Completion]]) -> None:
    """A trainer needs the memory of caches and packed weights until the next generation."""
    engine = engine_of(exact)
    before = set(vars(engine))
    engine.generate(mixed_requests())
    assert set(vars(engine)) == before
    assert not any(isinstance(value, torch.Tensor | list | tuple) for value in vars(engine).values())
    assert tokens_of(engine.generate(mixed_requests())) == tokens_of(mixed)


def test_broken_weights_leave_nothing_behind(exact: Decoder) -> None:
    """Not-a-number in the caches of one generation must not reach the next, whose masked places it shares."""
    requests = [GenerationRequest(prompt_of(20), (1, 2), SamplingParams(max_new_tokens=20))]
    short = [GenerationRequest(prompt_of(18), (1, 2), SamplingParams(max_new_tokens=18))]  # the same caches
    engine = engine_of(exact)
    expected = tokens_of(engine_of(exact).generate(short))
    weight = exact.layers[0].qkv
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(math.nan)
        engine.publish(exact, 1)
        with contextlib.suppress(RunFailure):
            engine.generate(requests)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    engine.publish(exact, 2)
    assert tokens_of(engine.generate(short)) == expected


def test_the_model_can_be_trained_after_it_has_generated() -> None:
    """What the model keeps from generation (its table of angles) takes part in the backward pass."""
    _, decoder = make_models("Llama")
    engine_of(decoder).generate([GenerationRequest(prompt_of(12), (1,), greedy(8))])
    batch = pack([PackedGroup(prompt_of(12), [prompt_of(7)])])
    assert batch.layout.segments == (Segment(0, 12, 18, 0, None), Segment(12, 6, 18, 12, 0))
    loss, *_ = decoder.completion_loss(batch, lambda x, _: x.sum())
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for _, p in decoder.named_parameters())
