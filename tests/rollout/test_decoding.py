"""Requests that come and go while others are decoded: each sample is what it would be alone, and no page is lost."""

import random

import pytest
import torch
import transformers

from rethink.model.decoder.decoder import Decoder
from rethink.rollout.decoding import Decoding, RunningSequence
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.forward import PackedWeights
from rethink.rollout.pages import PoolPlan, bytes_per_page
from rethink.rollout.running import completion_of
from rethink.types import Completion, FinishReason, GenerationRequest, SamplingParams
from tests.models import SHAPE, decoder_of, some_prompt, spell, tiny_model

VOCABULARY = 61


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    values = SHAPE | {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
    model: transformers.PreTrainedModel = tiny_model("Llama", seed=3, **values)
    return decoder_of(model.double(), torch.float64)


def some_requests(number: int) -> list[GenerationRequest]:
    dice = random.Random(5)
    start = some_prompt(40, VOCABULARY)
    made = []
    for i in range(number):
        prompt = start[: dice.choice([0, 16, 33])] + some_prompt(dice.randrange(1, 30), VOCABULARY, seed=i)
        params = SamplingParams(max_new_tokens=dice.randrange(1, 25), stop_token_ids=(3, 17))
        made.append(GenerationRequest(prompt, tuple(range(10 * i, 10 * i + dice.randrange(1, 4))), params))
    return made


def decoding_of(decoder: Decoder, told: dict[tuple[int, int], Completion], pages: int = 40) -> Decoding:
    def end(sample: RunningSequence, reason: FinishReason) -> None:
        assert (sample.key, sample.index) not in told
        told[sample.key, sample.index] = completion_of(sample, reason, spell, None)

    return Decoding(decoder, PackedWeights(decoder), spell, PoolPlan(pages, 6, 16), on_end=end)


@torch.inference_mode()
def test_requests_that_come_one_by_one_give_what_they_give_alone(decoder: Decoder) -> None:
    requests, told = some_requests(20), {}
    decoding = decoding_of(decoder, told)
    for key, request in enumerate(requests):
        decoding.submit(key, request)
        decoding.step()
    while decoding.step():
        pass
    alone = [TorchEngine(decoder, spell).generate([r])[0] for r in requests]
    assert sorted(told) == [(i, j) for i, r in enumerate(requests) for j in range(r.n)]
    assert all(
        told[i, j].token_ids.tolist() == c.token_ids.tolist() for i, g in enumerate(alone) for j, c in enumerate(g)
    )
    assert sorted(decoding.pool.free) == list(range(40))
    assert not decoding.waiting


@torch.inference_mode()
@pytest.mark.parametrize("pages", [8, 40])
def test_cancelled_requests_leave_their_pages_and_change_no_other(decoder: Decoder, pages: int) -> None:
    """Cancelled before, while and after they run, with room for few and for many at once."""
    requests, told, dice = some_requests(30), {}, random.Random(1)
    decoding, cancelled = decoding_of(decoder, told, pages), set()
    for key, request in enumerate(requests):
        decoding.submit(key, request)
        for _ in range(dice.randrange(3)):
            decoding.step()
        if dice.random() < 0.5:
            victim = dice.randrange(key + 1)
            decoding.cancel(victim)
            cancelled.add(victim)
            before = {place for place in told if place[0] == victim}
            decoding.step()
            assert {place for place in told if place[0] == victim} == before
    while decoding.step():
        pass
    assert len(cancelled) > 5
    for i, request in enumerate(requests):
        if i not in cancelled:
            expected = TorchEngine(decoder, spell).generate([request])[0]
            assert [told[i, j].token_ids.tolist() for j in range(request.n)] == [c.token_ids.tolist() for c in expected]
    assert sorted(decoding.pool.free) == list(range(pages))
    assert not decoding.pool.holders
    assert not decoding.pool.known


@torch.inference_mode()
def test_draws_are_shown_with_the_logits_they_come_from(decoder: Decoder) -> None:
    seen: dict[tuple[int, int], list[float]] = {}

    def draw(logits_BV: torch.Tensor, sequences: list[RunningSequence]) -> None:
        logprobs = logits_BV.log_softmax(-1)
        for row, s in zip(logprobs, sequences, strict=True):
            seen.setdefault((s.key, s.index), []).append(float(row[s.tokens[-1]]))

    told: dict[tuple[int, int], Completion] = {}
    decoding = decoding_of(decoder, told)
    decoding.on_draw = draw
    for key, request in enumerate(some_requests(9)):
        decoding.submit(key, request)
    while decoding.step():
        pass
    assert set(seen) == set(told)
    for place, completion in told.items():
        assert completion.logprobs.tolist() == pytest.approx(seen[place], abs=1e-6)


@pytest.mark.parametrize("reserved", [None, PoolPlan(40, 6, 16)])
@pytest.mark.parametrize("budget", [40, 12])
def test_an_engine_takes_requests_into_a_running_batch(
    decoder: Decoder, reserved: PoolPlan | None, budget: int
) -> None:
    """With memory for those that came first, or with memory that is kept; some are cancelled on the way."""
    requests, told, dice = some_requests(12), dict[tuple[int, int], Completion](), random.Random(2)
    page = bytes_per_page(decoder.config, decoder.dtype)
    engine = TorchEngine(decoder, spell, kv_budget_bytes=budget * page, max_concurrent=6)
    engine.publish(decoder, 7)
    if reserved is not None:
        engine.reserve(reserved)
    together = 0
    for key, request in enumerate(requests):
        engine.submit(key, request, lambda k, j, completion: told.update({(k, j): completion}))
        for _ in range(dice.randrange(4)):
            engine.step()
            together = max(together, len({sample.key for sample in engine.running}))
        if key % 4 == 3:
            engine.cancel(key)
    while engine.step():
        pass
    assert together > 1
    assert not engine.busy
    assert (engine.pages_used, engine._decoding is None) == (0, reserved is None)
    for i, request in enumerate(requests):
        if i % 4 != 3:
            expected = TorchEngine(decoder, spell).generate([request])[0]
            assert [told[i, j].token_ids.tolist() for j in range(request.n)] == [c.token_ids.tolist() for c in expected]
            assert {told[i, j].version for j in range(request.n)} == {7}


def test_what_breaks_a_step_drops_all_and_the_engine_works_on(decoder: Decoder) -> None:
    def broken(*_: object) -> None:
        raise OSError("the reward is gone")

    request = some_requests(1)[0]
    engine = TorchEngine(decoder, spell)
    for key in range(2):
        engine.submit(key, request, broken)
    with pytest.raises(OSError, match="the reward is gone"):
        all(engine.step() for _ in range(100))
    assert not engine.busy
    assert engine.generate([request])[0][0].token_ids.size
