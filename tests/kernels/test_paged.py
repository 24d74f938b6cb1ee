"""Attention over pages against a softmax for each row by itself; and products of decoding."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels.linear import PackedLinear
from rethink.kernels.paged import PAGE, CacheRows, attend_cached, cache_rows, copy_page, new_cache


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(runs: list[tuple[int, int]], tables: list[list[int]]) -> CacheRows:
    """Runs of (length, first position), each with a table of its own."""
    lengths = np.array([n for n, _ in runs], dtype=np.int32)
    starts = (lengths.cumsum() - lengths).astype(np.int32)
    width = max(len(t) for t in tables)
    filled = np.array([t + [0] * (width - len(t)) for t in tables], dtype=np.int32)
    return cache_rows(
        starts, lengths, np.array([p for _, p in runs], dtype=np.int32), np.arange(len(runs), dtype=np.int32), filled
    )


def softmax_over(q_HD: Tensor, k_UKD: Tensor, v_UKD: Tensor) -> Tensor:
    fold = q_HD.shape[0] // k_UKD.shape[1]
    k, v = k_UKD.repeat_interleave(fold, 1), v_UKD.repeat_interleave(fold, 1)
    weights = (torch.einsum("hd,uhd->hu", q_HD, k) / math.sqrt(q_HD.shape[1])).softmax(-1)
    return torch.einsum("hu,uhd->hd", weights, v)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6), (torch.bfloat16, 2e-2)], ids=str
)
@given(
    lengths=st.lists(st.integers(1, 45), min_size=1, max_size=4),
    cut=st.integers(1, 20),
    kv_heads=st.integers(1, 3),
    fold=st.integers(1, 4),
    size=st.sampled_from([5, 16, 48, 64, 80]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_pieces_of_any_length_equal_a_softmax_for_each_row(
    dtype: torch.dtype, tolerance: float, lengths: list[int], cut: int, kv_heads: int, fold: int, size: int
) -> None:
    """Sequences in pieces of `cut` rows and then one by one; pages lie in any order, and hold old values."""
    torch.manual_seed(0)
    number = sum(-(-n // PAGE) for n in lengths)
    pages = iter(torch.randperm(number).tolist())
    tables = [[next(pages) for _ in range(-(-n // PAGE))] for n in lengths]
    cache = new_cache(number, kv_heads, size, dtype, "cpu")
    cache.k.fill_(3.0)
    cache.v.fill_(3.0)
    q = [torch.randn(n, kv_heads * fold, size).to(dtype) for n in lengths]
    k, v = ([torch.randn(n, kv_heads, size).to(dtype) for n in lengths] for _ in range(2))
    done = [0] * len(lengths)
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        step = cut if max(done) < 2 * cut else 1
        going = [i for i, n in enumerate(lengths) if done[i] < n]
        parts = [slice(done[i], min(done[i] + step, lengths[i])) for i in going]
        rows = rows_of([(p.stop - p.start, p.start) for p in parts], [tables[i] for i in going])
        joined = [torch.cat([x[i][p] for i, p in zip(going, parts, strict=True)]) for x in (q, k, v)]
        out = attend_cached(joined[0], joined[1], joined[2], cache, rows)
        assert out.dtype == dtype
        at = 0
        for i, part in zip(going, parts, strict=True):
            for t in range(part.start, part.stop):
                wanted = softmax_over(q[i][t].double(), k[i][: t + 1].double(), v[i][: t + 1].double())
                torch.testing.assert_close(
                    out[at].double(), wanted, rtol=0, atol=tolerance * float(wanted.abs().max() + 1)
                )
                at += 1
            done[i] = part.stop


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_copied_page_goes_on_by_itself(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cache = new_cache(3, 1, 16, dtype, "cpu")
    q, k, v = (torch.randn(9, 1, 16).to(dtype) for _ in range(3))
    attend_cached(q[:7], k[:7], v[:7], cache, rows_of([(7, 0)], [[0]]))
    copy_page(cache, 0, 2)
    # The original goes on with token 7, the copy with token 8.
    first = attend_cached(q[7:8], k[7:8], v[7:8], cache, rows_of([(1, 7)], [[0]]))
    second = attend_cached(q[8:], k[8:], v[8:], cache, rows_of([(1, 7)], [[2]]))
    other = [torch.cat((x[:7], x[8:])).double() for x in (k, v)]
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    torch.testing.assert_close(
        first[0].double(), softmax_over(q[7].double(), k[:8].double(), v[:8].double()), rtol=0, atol=tolerance
    )
    torch.testing.assert_close(second[0].double(), softmax_over(q[8].double(), *other), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_product_equals_the_plain_one(dtype: torch.dtype, with_bias: bool) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(97, 48).to(dtype), torch.randn(97).to(dtype) if with_bias else None
    packed = PackedLinear(weight, bias)
    for rows in (1, 3, 64, 130):
        x = torch.randn(rows, 48).to(dtype)
        wanted = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        torch.testing.assert_close(
            packed(x).double(), wanted, rtol=2**-8 if dtype == torch.bfloat16 else 1e-5, atol=1e-4
        )
