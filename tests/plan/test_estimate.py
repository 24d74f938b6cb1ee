"""Estimates: counts against published models and against sums done by hand."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rethink.kernels.native.library import kernels_for, using
from rethink.kinds.grpo.estimate import Groups, estimate
from rethink.kinds.grpo.recipe import Recipe
from rethink.machine.speed import measure_gemm
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.plan.estimate import GIB, SHARES, MachineRates, activation_bytes, count_parameters, shape_of
from rethink.plan.estimate_text import estimate_text
from rethink.recipe.recipe_files import load_recipe, parse_recipe
from rethink.recipe.schema import ModelShape
from tests.models import decoder_of, tiny_model

SMOLLM2 = ModelShape(
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    context=8192,
    tie_embeddings=True,
)
TINY = ModelShape(
    hidden_size=8, layers=2, heads=2, kv_heads=1, head_dim=4, intermediate_size=16, vocab_size=32, context=64
)


def load(*overrides: str) -> Recipe:
    text = "name: small\nsteps: 10\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n"
    return parse_recipe(text, "small", ["rollout.max_new_tokens=20", "evaluation.problems=0", *overrides])


def test_parameters_of_smollm2_exactly() -> None:
    parameters = count_parameters(SMOLLM2)
    assert parameters.total == 134_515_008  # its published safetensors
    assert parameters.head == 49152 * 576
    assert parameters.total == parameters.block + parameters.head


def test_parameters_of_published_models() -> None:
    qwen = load_recipe("paper/r1-zero-qwen-32b").model.shape
    deepseek = load_recipe("paper/r1-zero").model.shape
    assert qwen is not None
    assert deepseek is not None
    assert count_parameters(qwen).total == pytest.approx(32.76e9, rel=0.001)  # 32,763,876,352 with its biases
    parameters = count_parameters(deepseek)
    assert parameters.total == 671_000_000_000
    assert parameters.block + 2 * parameters.head == 37_000_000_000
    # Without the published totals the experts alone give nearly all of it: only latent attention is counted otherwise.
    bare = deepseek.model_copy(update={"total_parameters": None, "active_parameters": None})
    assert count_parameters(bare).total == pytest.approx(671e9, rel=0.04)
    expert = 3 * 7168 * 2048
    assert count_parameters(bare).total - count_parameters(bare).block - 2 * parameters.head == 58 * 248 * expert


def test_tokens_and_operations_by_hand() -> None:
    recipe = load("rollout.prompts_per_batch=3", "rollout.group_size=4")
    result = estimate(recipe, TINY, prompt_tokens=10, completion_tokens=5)
    (phase,) = result.phases
    block = 2 * ((8 * 8 * 2 + 8 * 4 * 2) + 2 * 8 + 3 * 8 * 16) + 8
    head = 8 * 32
    forward = 2 * (block * (30 + 60) + head * 60)
    attention = 4 * 2 * 8 * 3 * (10 * 10 / 2 + 4 * 5 * (10 + 2.5))
    assert (result.parameters.block, result.parameters.head) == (block, head)
    assert (phase.prompt_tokens_batch, phase.completion_tokens_batch) == (30, 60)
    assert (phase.decoding_flops, phase.training_flops) == (forward, 3 * forward)
    assert (phase.attention_flops_decoding, phase.attention_flops_training) == (attention, 3 * attention)
    assert result.total_tokens == 10 * 90
    assert not result.prompt_tokens_assumed
    assert (result.total_seconds, phase.seconds_per_step) == (None, None)


def test_time_epochs_and_reference() -> None:
    rates = MachineRates(training=1e6, decoding=5e5)
    plain = estimate(load(), TINY, rates)
    (phase,) = plain.phases
    forward = phase.decoding_flops + phase.attention_flops_decoding
    assert phase.seconds_per_step == pytest.approx(forward / 5e5 + 3 * forward / 1e6)
    assert plain.total_seconds == pytest.approx(10 * (forward / 5e5 + 3 * forward / 1e6))
    more = estimate(load("algorithm.epochs=2", "algorithm.mini_batches=2", "algorithm.beta=0.1"), TINY, rates)
    assert more.steps_per_batch == 4
    assert more.phases[0].training_flops == 8 * phase.decoding_flops  # two epochs of three and the reference's
    assert more.phases[0].seconds_per_step == pytest.approx((forward / 5e5 + 8 * forward / 1e6) / 4)
    whole = estimate(load("algorithm.type=gspo", "algorithm.epochs=2"), TINY, rates).phases[0]
    head = 2 * count_parameters(TINY).head * whole.completion_tokens_batch
    assert whole.training_flops == 6 * whole.decoding_flops + 2 * head  # the head once more in each epoch
    assert whole.seconds_per_step is not None
    assert whole.seconds_per_step > estimate(load("algorithm.epochs=2"), TINY, rates).phases[0].seconds_per_step
    assert more.total_tokens == 3 * (phase.prompt_tokens_batch + phase.completion_tokens_batch)  # 10 steps, 4 a batch


def test_phases_follow_the_token_limit() -> None:
    result = estimate(load("rollout.max_new_tokens={0: 8, 4: 16, 99: 32}"), TINY)
    assert [(p.first_step, p.steps, p.max_new_tokens, p.completion_tokens) for p in result.phases] == [
        (0, 4, 8, 8),
        (4, 6, 16, 16),
    ]
    capped = estimate(load("rollout.max_new_tokens={0: 8, 4: 16}"), TINY, completion_tokens=12)
    assert [phase.completion_tokens for phase in capped.phases] == [8, 12]


def test_evaluations() -> None:
    overrides = ["evaluation.problems=100", "evaluation.every=5", "evaluation.every_problems=10"]
    result = estimate(load(*overrides), TINY)  # before, at step 5, after step 10
    assert (result.evaluations, result.evaluation_tokens) == (3, 210 * 20)
    assert estimate(load(), TINY).evaluations == 0


def test_memory_by_hand() -> None:
    recipe = load("rollout.prompts_per_batch=2", "rollout.group_size=4", "model.dtype=bfloat16")
    memory = estimate(recipe, SMOLLM2, prompt_tokens=100).memory
    total = 134_515_008
    cache = 30 * 2 * (2 * 3 * 64)
    assert (memory.master_and_optimizer, memory.compute_weights, memory.reference_weights) == (14 * total, 2 * total, 0)
    assert memory.keys_and_values_most == (2 * 100 + 8 * 20) * cache
    assert memory.keys_and_values_least == 120 * cache
    assert memory.activations_most * 120 == memory.activations_least * 360
    assert memory.weights < memory.least < memory.most


def test_memory_follows_the_recipe() -> None:
    recipe = load(
        "model.dtype=float32", "algorithm.beta=0.1", "rollout.max_concurrent=8", "optimizer.micro_batch_tokens=300"
    )
    memory = estimate(recipe, SMOLLM2, prompt_tokens=100).memory
    assert (memory.compute_weights, memory.reference_weights) == (0, 4 * 134_515_008)
    assert memory.keys_and_values_most == (100 + 8 * 20) * 30 * 4 * 384
    assert memory.activations_most * 120 == memory.activations_least * 300
    small = estimate(load("rollout.kv_budget_gb=0.01"), SMOLLM2).memory
    assert small.keys_and_values_most == int(0.01 * GIB)
    latent = TINY.model_copy(update={"kv_values_per_token": 3})
    assert estimate(load(), latent, prompt_tokens=10).memory.keys_and_values_least == 30 * 2 * 2 * 3


@dataclass(frozen=True)
class Loaded:
    """As a loaded model's configuration."""

    hidden_size: int = 576
    num_layers: int = 30
    num_heads: int = 9
    num_kv_heads: int = 3
    head_dim: int = 64
    intermediate_size: int = 1536
    vocab_size: int = 49152
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True


def test_shape_of_a_loaded_model() -> None:
    assert shape_of(Loaded()) == SMOLLM2


@pytest.mark.parametrize("name", ["paper/r1-zero", "paper/r1-zero-qwen-32b"])
def test_paper_recipes_dry_run_from_their_shape(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.shape is not None
    text = estimate_text(estimate(recipe, recipe.model.shape))
    assert "for 16 steps" in text
    assert "rethink doctor" in text


def test_text_and_data() -> None:
    result = estimate(load("evaluation.problems=10"), SMOLLM2, MachineRates.from_matrix_products(830e9, "reference"))
    text = estimate_text(result)
    for words in ("135 million", "(assumed)", "Steps 1-10", "seconds a step", "Memory", "GiB"):
        assert words in text
    assert "doctor" not in text
    data = json.loads(json.dumps(result.to_dict()))
    assert data["memory"]["most"] == result.memory.most
    assert data["phases"][0]["completion_tokens_batch"] == 64 * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_those_that_torch_saves(dtype: torch.dtype) -> None:
    """A layer's share, by torch's hooks for saved tensors: two models that differ in depth alone, 60 tokens."""

    def saved_bytes(layers: int) -> tuple[int, int]:
        shape = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = tiny_model("Llama", seed=0, vocab_size=40, num_hidden_layers=layers, head_dim=32, **shape)
        decoder = decoder_of(model, dtype)
        weights = {tensor.untyped_storage().data_ptr() for _, tensor in decoder.named_parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        batch = pack([PackedGroup(tuple(range(20)), [list(range(21))] * 2)])
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _, _ = decoder.completion_loss(batch, lambda logprobs, part: logprobs.sum())
        assert loss.requires_grad
        counted = activation_bytes(shape_of(decoder.config), dtype.itemsize) * batch.input_tokens
        return sum(kept.values()), counted

    (shallow, counted_shallow), (deep, counted_deep) = saved_bytes(1), saved_bytes(4)
    assert deep - shallow == pytest.approx(counted_deep - counted_shallow, rel=0.03)


def training_pass(groups: Groups, **shape: int) -> tuple[Decoder, Callable[[], None]]:
    """A decoder and its forward and backward pass over such groups."""
    model = tiny_model("Llama", seed=0, **shape)
    decoder = decoder_of(model, torch.float32)
    completions = [list(range(groups.completion))] * groups.group
    prompts = [(i, *range(groups.prompt - 1)) for i in range(groups.prompts)]  # none begins as another does
    batch = pack([PackedGroup(prompt, completions) for prompt in prompts])

    def both() -> None:
        decoder.completion_loss(batch, lambda logprobs, part: logprobs.sum())[0].backward()

    return decoder, both


def test_operations_are_those_that_torch_counts() -> None:
    """A training pass on the references. They compute masked scores, and no completion's last token."""
    groups = Groups(prompts=2, group=4, prompt=12, completion=20)
    decoder, both = training_pass(
        groups, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, vocab_size=64,
    )  # fmt: skip
    with using("reference"), FlopCounterMode(display=False) as counter:
        both()
    assert counter.get_total_flops() == pytest.approx(3 * sum(groups.forward(shape_of(decoder.config))), rel=0.06)


def test_better_kernels_reach_more_of_the_rate() -> None:
    native, plain = SHARES["avx512-bf16 bfloat16"], SHARES["reference"]
    assert all(ours > theirs for ours, theirs in zip(native, plain, strict=True))
    assert MachineRates.from_matrix_products(100.0, "avx512-bf16 bfloat16") == MachineRates(*(100 * s for s in native))
    assert kernels_for("float32", "cuda") == "reference"
    with using("reference"):
        assert kernels_for("float32", "cpu") == "reference"
    with using("avx2"):  # no bf16 kernels there, whatever the processor has
        assert kernels_for("bfloat16", "cpu") == "reference"


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_a_measured_step_is_near_its_estimate(choice: str) -> None:
    """Processor time on one thread, so that other work counts little; within a factor of two."""
    groups = Groups(prompts=2, group=4, prompt=80, completion=60)
    decoder, both = training_pass(
        groups, hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, head_dim=64, vocab_size=4096,
    )  # fmt: skip
    threads, seconds = torch.get_num_threads(), math.inf
    torch.set_num_threads(1)
    try:
        with using(choice), pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "perf_counter", time.process_time)
            rate = 1e9 * measure_gemm(["float32"])["float32"]
            rates = MachineRates.from_matrix_products(rate, kernels_for("float32", "cpu"))
            for _ in range(3):
                started = time.process_time()
                both()
                seconds = min(seconds, time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    expected = 3 * sum(groups.forward(shape_of(decoder.config))) / rates.training
    assert expected / 2 < seconds < 2 * expected
