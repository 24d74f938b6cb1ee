"""AdamW on fp32 masters against torch's own; schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rethink.recipe.schema import OptimizerSection
from rethink.runs.optimizer import MasterAdamW, learning_rate


class Weights:
    """A model that is a matrix and a vector."""

    def __init__(self, dtype: torch.dtype, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = torch.randn(5, 3, generator=generator).to(device, dtype).requires_grad_()
        self.vector = torch.randn(4, generator=generator).to(device, dtype).requires_grad_()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        yield "matrix", self.matrix
        yield "vector", self.vector

    def loss(self, scale: float) -> Tensor:
        return scale * ((self.matrix.float() ** 3).sum() + self.vector.float().sin().sum())


def test_fp32_equals_torch() -> None:
    section = OptimizerSection(learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.5)
    ours, theirs = Weights(torch.float32), Weights(torch.float32)
    optimizer = MasterAdamW(ours, section)  # type: ignore[arg-type]
    adamw = torch.optim.AdamW(
        [{"params": [theirs.matrix], "weight_decay": 0.1}, {"params": [theirs.vector], "weight_decay": 0.0}],
        lr=0.01, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    for step in range(5):
        for part in (0.25, 0.75):  # two backward passes add up
            ours.loss(part * (step + 1)).backward()
        theirs.loss(step + 1.0).backward()
        expected = torch.nn.utils.clip_grad_norm_([theirs.matrix, theirs.vector], 0.5)
        assert optimizer.step(0.01) == pytest.approx(float(expected), rel=1e-5)
        adamw.step()
        adamw.zero_grad()
    torch.testing.assert_close(ours.matrix, theirs.matrix, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.vector, theirs.vector, rtol=1e-5, atol=1e-7)


def test_small_updates_add_up_below_bf16s_resolution() -> None:
    weights = Weights(torch.bfloat16)
    before = weights.matrix.detach().clone()
    optimizer = MasterAdamW(weights, OptimizerSection(learning_rate=1e-5))  # type: ignore[arg-type]
    weights.loss(1.0).backward()
    optimizer.step(1e-5)
    assert torch.equal(weights.matrix, before)  # one update is lost in bf16 …
    for _ in range(2000):
        weights.loss(1.0).backward()
        optimizer.step(1e-5)
    assert not torch.equal(weights.matrix, before)  # … many are not
    assert optimizer.masters()["matrix"].dtype == torch.float32


def test_state_restores_the_next_step_exactly() -> None:
    section = OptimizerSection(learning_rate=0.01)
    one, two = Weights(torch.bfloat16), Weights(torch.bfloat16)
    first = MasterAdamW(one, section)  # type: ignore[arg-type]
    for _ in range(3):
        one.loss(1.0).backward()
        first.step(0.01)
    second = MasterAdamW(two, section)  # type: ignore[arg-type]
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    for weights, optimizer in ((one, first), (two, second)):
        weights.loss(2.0).backward()
        optimizer.step(0.01)
    for name, master in first.masters().items():
        assert torch.equal(master, second.masters()[name])
    assert torch.equal(one.matrix, two.matrix)


def test_state_goes_to_where_the_weights_are() -> None:
    """A checkpoint is read into main memory; the meta device stands for an accelerator."""
    weights = Weights(torch.bfloat16)
    first = MasterAdamW(weights, OptimizerSection())  # type: ignore[arg-type]
    weights.loss(1.0).backward()
    first.step(0.01)
    elsewhere = Weights(torch.bfloat16, "meta")
    second = MasterAdamW(elsewhere, OptimizerSection())  # type: ignore[arg-type]
    second.load(first.state())
    assert {tensor.device.type for name, tensor in second.state().items() if name != "updates"} == {"meta"}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.84, 0.68, 0.52, 0.36]),
        ("cosine", [0.5, 1.0, 1.0, 0.9236068, 0.7236068, 0.4763932, 0.2763932]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    section = OptimizerSection(learning_rate=1.0, warmup_steps=2, schedule=schedule, final_rate=0.2)  # type: ignore[arg-type]
    assert [learning_rate(section, step, 7) for step in range(7)] == pytest.approx(expected)
    assert learning_rate(section, 20, 7) == pytest.approx(1.0 if schedule == "constant" else 0.2)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 2), (3, 4), (3, 3), (5, 2), (1, 100)])
def test_no_update_has_a_rate_of_zero(schedule: str, warmup: int, total: int) -> None:
    section = OptimizerSection(learning_rate=1.0, warmup_steps=warmup, schedule=schedule)  # type: ignore[arg-type]
    assert all(0 < learning_rate(section, step, total) <= 1 for step in range(total))
