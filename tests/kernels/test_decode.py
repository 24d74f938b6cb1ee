"""One decoding step's attention against a softmax for each sequence by itself, and the products of decoding."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels.decode import Grid, LayerCache, decode_attention
from rethink.kernels.linear import PackedLinear


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def grid_of(rows_of_batch: list[int]) -> Grid:
    places = [rows_of_batch[:i].count(row) for i, row in enumerate(rows_of_batch)]
    return Grid(max(rows_of_batch) + 1, max(places) + 1, torch.tensor(rows_of_batch), torch.tensor(places))


def mask_of(prompts: list[int], lengths: list[int], prefix: int, places: int, dtype: torch.dtype) -> Tensor:
    """For sequences with so many prompt and own tokens: 0 where they may look, -inf elsewhere."""
    mask = torch.full((len(lengths), prefix + places), -math.inf, dtype=dtype)
    for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        mask[i, :prompt] = 0
        mask[i, prefix : prefix + length] = 0
    return mask


def reference(
    q_BHD: Tensor, cache: LayerCache, rows_of_batch: list[int], prompts: list[int], lengths: list[int]
) -> Tensor:
    out = []
    for i, row in enumerate(rows_of_batch):
        k = torch.cat((cache.prefix_k_RKPD[row, :, : prompts[i]], cache.own_k_BKCD[i, :, : lengths[i]]), 1)
        v = torch.cat((cache.prefix_v_RKPD[row, :, : prompts[i]], cache.own_v_BKCD[i, :, : lengths[i]]), 1)
        fold = q_BHD.shape[1] // k.shape[0]
        k, v = k.repeat_interleave(fold, 0), v.repeat_interleave(fold, 0)
        weights = (torch.einsum("hd,hud->hu", q_BHD[i], k) / math.sqrt(q_BHD.shape[2])).softmax(-1)
        out.append(torch.einsum("hu,hud->hd", weights, v))
    return torch.stack(out)


def caches(rows: int, batch: int, kv_heads: int, prefix: int, own: int, size: int, dtype: torch.dtype) -> LayerCache:
    """Every place holds something, so that looking at one too many shows."""
    far, near = (rows, kv_heads, prefix, size), (batch, kv_heads, own, size)
    return LayerCache(*(torch.randn(shape, dtype=torch.float64).to(dtype) for shape in (far, far, near, near)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[int], list[int]]:
    """Row, prompt size and own length of each running sequence; a row's sequences share the prompt's size."""
    rows = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    prompt_of_row = [draw(st.integers(1, 6)) for _ in range(4)]
    lengths = [draw(st.integers(1, 5)) for _ in rows]
    return rows, [prompt_of_row[row] for row in rows], lengths


@given(batch=batches(), kv_heads=st.integers(1, 3), fold=st.integers(1, 3), size=st.integers(1, 7))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_equals_a_softmax_for_each_sequence(
    batch: tuple[list[int], list[int], list[int]], kv_heads: int, fold: int, size: int
) -> None:
    rows, prompts, lengths = batch
    torch.manual_seed(0)
    # More rows, sequences and places in the cache than the step uses.
    cache = caches(5, len(rows) + 2, kv_heads, 8, 9, size, torch.float64)
    q = torch.randn(len(rows), kv_heads * fold, size, dtype=torch.float64)
    places = max(lengths) + 1
    actual = decode_attention(q, cache, grid_of(rows), places, mask_of(prompts, lengths, 8, places, torch.float64))
    torch.testing.assert_close(actual, reference(q, cache, rows, prompts, lengths), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)])
def test_lower_precision_keeps_its_dtype_and_is_near(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    rows, prompts, lengths = [1, 0, 1, 1], [4, 6, 4, 4], [3, 1, 2, 7]
    cache = caches(2, 4, 2, 6, 7, 8, dtype)
    q = torch.randn(4, 6, 8).to(dtype)
    actual = decode_attention(q, cache, grid_of(rows), 7, mask_of(prompts, lengths, 6, 7, torch.float32))
    assert actual.dtype == dtype
    exact = LayerCache(
        cache.prefix_k_RKPD.double(), cache.prefix_v_RKPD.double(), cache.own_k_BKCD.double(), cache.own_v_BKCD.double()
    )
    expected = reference(q.double(), exact, rows, prompts, lengths)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_a_sequence_sees_no_other_sequence() -> None:
    """Changing one sequence's own keys and its group's prefix leaves the others' results bit for bit."""
    torch.manual_seed(0)
    rows, prompts, lengths = [0, 1, 1], [3, 5, 5], [2, 4, 1]
    cache = caches(2, 3, 2, 6, 4, 4, torch.float32)
    q, mask = torch.randn(3, 4, 4), mask_of(prompts, lengths, 6, 4, torch.float32)
    before = decode_attention(q, cache, grid_of(rows), 4, mask)
    cache.own_v_BKCD[0] += 1
    cache.prefix_v_RKPD[0] += 1
    after = decode_attention(q, cache, grid_of(rows), 4, mask)
    assert torch.equal(before[1:], after[1:])
    torch.testing.assert_close(after[0], before[0] + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_product_equals_the_plain_one(dtype: torch.dtype, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(97, 48).to(dtype), torch.randn(97).to(dtype) if with_bias else None
    packed = PackedLinear(weight, bias)
    for rows in (1, 3, 64, 130):
        x = torch.randn(rows, 48).to(dtype)
        assert torch.equal(packed(x), F.linear(x, weight, bias))
