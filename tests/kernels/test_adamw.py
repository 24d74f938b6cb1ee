"""AdamW on split weights: the halves are the whole, and an update is torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels.adamw import CHUNK, Update, adamw_, join, split
from rethink.kernels.native import ops
from rethink.kernels.native.library import native, using

PATHS = ["reference"] + (["auto"] if native() is not None else [])
UPDATE = Update(number=3, rate=0.01, beta1=0.9, beta2=0.95, epsilon=1e-8, gradient_scale=0.5)


def bits(x: Tensor) -> list[int]:
    return x.view(torch.int32).tolist()


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=40))
def test_two_halves_are_the_whole(values: list[float]) -> None:
    exact = torch.tensor(values)
    weight, low = split(exact)
    assert torch.equal(weight, exact.to(torch.bfloat16))
    for back, bit in zip(bits(join(weight, low)), bits(exact), strict=True):
        halfway_down = bit & 0xFFFF == 0x8000 and not bit & 0x10000
        assert back == bit - halfway_down


def test_ties_go_both_ways() -> None:
    exact = torch.tensor([0x3F808000, 0x3F818000, 0x3F80_7FFF, 0x3F80_8001], dtype=torch.int32).view(torch.float32)
    weight, low = split(exact)
    assert low.tolist() == [0x7FFF, -0x8000, 0x7FFF, -0x7FFF]
    assert bits(join(weight, low)) == [0x3F807FFF, 0x3F818000, 0x3F807FFF, 0x3F808001]


def made(size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weight, gradient, and moments of earlier updates."""
    dice = torch.Generator().manual_seed(seed)
    weight, gradient, mean = (torch.randn(size, generator=dice) for _ in range(3))
    return weight * 0.1, gradient, 0.1 * mean, torch.rand(size, generator=dice)


def torchs(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, decay: float) -> tuple[Tensor, ...]:
    """The same update by torch, in fp64."""
    w, g, m, s = (t.double() for t in (weight, UPDATE.gradient_scale * gradient, mean, square))
    leaf = torch.nn.Parameter(w.clone())
    leaf.grad = g
    optimizer = torch.optim.AdamW([leaf], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    optimizer.state[leaf] = {"step": torch.tensor(2.0), "exp_avg": m.clone(), "exp_avg_sq": s.clone()}
    optimizer.step()
    return leaf.detach(), optimizer.state[leaf]["exp_avg"], optimizer.state[leaf]["exp_avg_sq"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1, 15, 16, 1000])
def test_an_update_is_torchs(path: str, dtype: torch.dtype, size: int) -> None:
    exact, gradient, mean, square = made(size)
    weight, low = split(exact) if dtype == torch.bfloat16 else (exact.clone(), None)
    expected = torchs(exact if low is None else join(weight, low), gradient, mean, square, 0.1)
    with using(path):
        adamw_(weight, low, gradient, mean, square, 0.1, UPDATE)
    after = weight if low is None else join(weight, low)
    for ours, theirs in zip((after, mean, square), expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=3e-8)
    assert not gradient.any()
    if low is not None:
        assert torch.equal(weight, after.to(torch.bfloat16))


@pytest.mark.parametrize("path", PATHS)
def test_fp64_and_large_weights(path: str) -> None:
    size = CHUNK + 17
    exact, gradient, mean, square = (t.double() for t in made(size))
    expected = torchs(exact, gradient, mean, square, 0.0)
    with using(path):
        adamw_(exact, None, gradient, mean, square, 0.0, UPDATE)
    torch.testing.assert_close(exact, expected[0], rtol=1e-12, atol=1e-12)


def test_a_weight_keeps_its_shape_and_place() -> None:
    exact, gradient, mean, square = (t.view(8, 6) for t in made(48))
    weight, low = split(exact)
    where = weight.data_ptr()
    adamw_(weight, low, gradient, mean, square, 0.0, UPDATE)
    assert weight.shape == (8, 6)
    assert weight.data_ptr() == where
    assert math.isfinite(float(join(weight, low).sum()))


@pytest.mark.skipif(native() is None, reason="no native kernels here")
def test_native_results_halfway_round_as_split_does() -> None:
    """1 and 1 + 2^-7, each moved up by 2^-8: halfway, once rounded down and once up; whole vectors and the rest."""
    size = 34
    weight = torch.tensor([1.0, 1.0078125]).repeat(size // 2).to(torch.bfloat16)
    expected = split(weight.float() + 2.0**-8)
    low, gradient = torch.zeros(size, dtype=torch.int16), torch.full((size,), -1.0)
    mean, square = torch.zeros(size), torch.ones(size)
    ops.adamw(weight, low, gradient, mean, square, ops.AdamWNumbers(1.0, 1.0, 1.0, 1.0, 2.0**-8, 1.0, 0.0))
    assert torch.equal(weight, expected[0])
    assert torch.equal(low, expected[1])
    assert low.tolist()[:2] == [0x7FFF, -0x8000]
