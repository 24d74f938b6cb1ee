"""Plans for graphics processors: what each must hold, and how long they take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.reward_model.plan import estimate_reward_model
from rethink.kinds.reward_model.recipe import RewardDataSize
from rethink.plan.estimate import MachineRates
from rethink.plan.gpus import LARGE, MEMORY_BYTES, NODE, GPUPlan, gpus_text, plan_gpus
from rethink.recipe.recipe_files import load_recipe
from tests.plan.test_estimate import SMOLLM2


def plan_of(name: str) -> GPUPlan:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    shape = recipe.model.shape
    assert shape is not None
    found = estimate(recipe, shape)
    plan = plan_gpus(shape, found.memory, 128 + recipe.longest_completion, 2, found.total_flops)
    assert plan is not None
    return plan


def test_r1_zero_takes_about_the_published_hours() -> None:
    """The paper: 101 thousand H800 GPU hours on 512 of them. Ours counts every completion at its limit."""
    plan = plan_of("paper/r1-zero")
    assert 101_000 < plan.hours < 150_000
    assert 100 < plan.number <= 512
    assert plan.number % NODE == 0
    assert plan.bytes_each <= MEMORY_BYTES


def test_memory_by_hand() -> None:
    """SmolLM2-135M, 8 sequences' worth of 1,024 tokens in bf16."""
    memory = replace(estimate(load_recipe("quickstart"), SMOLLM2).memory, keys_and_values_least=0)
    plan = plan_gpus(SMOLLM2, memory, 8 * 1024, 2, 3.6e18)
    assert plan is not None
    hidden, layers, width, heads = 576, 30, 1536, 3 * (9 + 3) * 64
    inputs = 1024 * layers * hidden * 2
    layer = 1024 * (8 * hidden + 2 * (2 * hidden + heads + 3 * width))
    assert plan == GPUPlan(8, memory.weights // 8 + inputs + layer + memory.logits, 2.5)


@given(factor=st.floats(1, 1e4), longest=st.integers(1, 2_000_000))
def test_never_more_than_there_is_and_no_node_too_many(factor: float, longest: int) -> None:
    memory = estimate(load_recipe("quickstart"), SMOLLM2).memory
    memory = replace(memory, master_and_optimizer=int(memory.master_and_optimizer * factor))
    plan = plan_gpus(SMOLLM2, memory, longest, 2, 1e20)
    assert plan is not None
    assert plan.bytes_each <= MEMORY_BYTES + 1
    if plan.number > NODE:
        fewer = plan.number - NODE
        assert plan.bytes_each + memory.weights / fewer - memory.weights / plan.number > MEMORY_BYTES - 2


def test_a_sequence_that_no_node_holds() -> None:
    memory = estimate(load_recipe("quickstart"), SMOLLM2).memory
    assert plan_gpus(SMOLLM2, memory, 100_000_000, 2, 1e20) is None
    assert "does not fit" in gpus_text(None, LARGE)
    assert gpus_text(None, LARGE / 2) == ""


@pytest.mark.parametrize(("objective", "responses"), [("pairwise", 2), ("pointwise", 1)])
def test_a_reward_model_by_hand(objective: str, responses: int) -> None:
    recipe = load_recipe(
        "reward-model", [f"objective={objective}", "epochs=null", "steps=10", "batch_size=16", "max_tokens=500"]
    )
    size = RewardDataSize(examples=400, tokens=600)
    found = estimate_reward_model(recipe, SMOLLM2, size, MachineRates(1e12, 1e12), held_out_tokens=1000)
    assert found.steps == 10
    assert found.total_tokens == 10 * 16 * 600
    block = found.parameters.block
    pairs = (600 / responses) ** 2 / 2 * responses  # queries and keys of an example
    trained = 160 * (6 * block * 600 + 12 * 30 * 9 * 64 * pairs)
    read = 2 * 1000 * (2 * block + 4 * 30 * 9 * 64 * 600 / responses / 2)
    assert found.total_flops == pytest.approx(trained + read)
    assert found.total_seconds == pytest.approx(found.total_flops / 1e12)
    assert found.memory.logits == 0
    assert found.memory.activations_least == responses * 500 * (found.memory.activations_least // (responses * 500))
