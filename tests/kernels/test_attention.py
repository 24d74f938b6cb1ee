"""Tree attention against one masked softmax over the whole row, forwards and backwards."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels import attention
from rethink.kernels.attention import Segment, TreeLayout, attend, attend_backward, merge, tree_attention, tree_layout
from rethink.model.decoder.packing import PackedGroup, pack

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
Shape = tuple[int, list[int]]
"""Prompt tokens, and tokens of each completion."""
MIXED: list[Shape] = [(5, [4, 1, 9, 0, 3]), (1, [2, 2]), (3, []), (2, [1])]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def layout_of(groups: list[Shape], device: str = "cpu") -> TreeLayout:
    """Prompts that begin differently, so that none shares anything."""
    made = [PackedGroup([g] * size, [[0] * n for n in lengths]) for g, (size, lengths) in enumerate(groups)]
    return pack(made, device).layout


def visible(groups: list[Shape]) -> Tensor:
    """Which place of the row may see which, from the definition of the packing: [T, T] bool."""
    owner: list[tuple[int, int]] = []  # group, and completion (-1: its prompt)
    for g, (size, lengths) in enumerate(groups):
        owner += [(g, -1)] * size
        for c, length in enumerate(lengths):
            owner += [(g, c)] * max(length - 1, 0)
    seen = torch.zeros(len(owner), len(owner), dtype=torch.bool)
    for i, (group, part) in enumerate(owner):
        for j in range(i + 1):
            seen[i, j] = owner[j] in ((group, -1), (group, part))
    return seen


def reference(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, seen: Tensor) -> Tensor:
    fold = q_THD.shape[1] // k_TKD.shape[1]
    k, v = k_TKD.repeat_interleave(fold, 1), v_TKD.repeat_interleave(fold, 1)
    scores = torch.einsum("thd,uhd->htu", q_THD, k) / math.sqrt(q_THD.shape[2])
    weights = scores.masked_fill(~seen.to(scores.device), -math.inf).softmax(-1)
    return torch.einsum("htu,uhd->thd", weights, v)


def draw(tokens: int, heads: int, kv_heads: int, size: int) -> list[Tensor]:
    """Queries, keys, values and an upstream gradient, in fp64."""
    torch.manual_seed(0)
    shapes = [(tokens, heads, size), (tokens, kv_heads, size), (tokens, kv_heads, size), (tokens, heads, size)]
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def with_gradients(function: object, inputs: list[Tensor], *rest: object) -> list[Tensor]:
    assert callable(function)
    *operands, upstream = inputs
    leaves = [x.detach().clone().requires_grad_() for x in operands]
    out = function(*leaves, *rest)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out))]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Within `tolerance` of each tensor's largest entry."""
    for got, wanted in zip(actual, expected, strict=True):
        assert got.shape == wanted.shape
        worst = (got.double().cpu() - wanted).abs().amax() / wanted.abs().amax()
        assert float(worst) <= tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_equals_one_masked_softmax(device: str, heads: int, kv_heads: int) -> None:
    inputs = draw(len(visible(MIXED)), heads, kv_heads, 6)
    moved = [x.to(device) for x in inputs]
    actual = with_gradients(tree_attention, moved, layout_of(MIXED, device))
    assert_close(actual, with_gradients(reference, inputs, visible(MIXED)), 1e-13)


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=5)),
        min_size=1,
        max_size=3,
    ),
    kv_heads=st.integers(1, 3),
    fold=st.integers(1, 3),
    size=st.integers(1, 9),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_equals_one_masked_softmax_for_any_shape(groups: list[Shape], kv_heads: int, fold: int, size: int) -> None:
    seen = visible(groups)
    inputs = draw(len(seen), kv_heads * fold, kv_heads, size)
    actual = with_gradients(tree_attention, inputs, layout_of(groups))
    expected = with_gradients(reference, inputs, seen)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_gradients_pass_gradcheck() -> None:
    groups: list[Shape] = [(2, [3, 1]), (1, [2])]
    layout = layout_of(groups)
    q, k, v, _ = (x.requires_grad_() for x in draw(len(visible(groups)), 4, 2, 2))
    check = lambda *operands: tree_attention(*operands, layout)  # noqa: E731
    assert torch.autograd.gradcheck(check, (q, k, v), fast_mode=True)


@pytest.mark.parametrize("device", DEVICES)
def test_backward_in_blocks_of_queries_is_the_same(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[Shape] = [(37, [50, 40, 3]), (18, [34])]  # blocks of 16 that do not divide them
    monkeypatch.setattr(attention, "BLOCK_SCORES", 1)
    inputs = draw(len(visible(groups)), 4, 2, 4)
    actual = with_gradients(tree_attention, [x.to(device) for x in inputs], layout_of(groups, device))
    assert_close(actual, with_gradients(reference, inputs, visible(groups)), 1e-12)


def nested() -> tuple[TreeLayout, Tensor]:
    """What three prompts share, what two of them share further, their rests and completions; and who sees whom."""
    ends = [
        (19, 0, None),
        (5, 19, 0),
        (3, 24, 1),
        (9, 27, 2),
        (17, 27, 2),
        (1, 24, 1),
        (6, 25, 5),
        (8, 19, 0),
        (2, 27, 7),
    ]
    segments: list[Segment] = []
    start = 0
    for size, position, parent in ends:
        segments.append(Segment(start, size, start + size, position, parent))
        start += size
    lasts = [start, 60, 53, 36, 53, 60, 60, start, start]
    segments = [Segment(s.start, s.size, end, s.position, s.parent) for s, end in zip(segments, lasts, strict=True)]
    seen = torch.zeros(start, start, dtype=torch.bool)
    for segment in segments:
        rows = range(segment.start, segment.start + segment.size)
        above: list[int] = []
        parent = segment.parent
        while parent is not None:
            above += range(segments[parent].start, segments[parent].start + segments[parent].size)
            parent = segments[parent].parent
        for row in rows:
            seen[row, [*above, *range(segment.start, row + 1)]] = True
    return tree_layout(segments), seen


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 1)])
def test_trees_of_prompts_equal_one_masked_softmax(heads: int, kv_heads: int) -> None:
    layout, seen = nested()
    inputs = draw(len(seen), heads, kv_heads, 6)
    assert_close(with_gradients(tree_attention, inputs, layout), with_gradients(reference, inputs, seen), 1e-13)


@pytest.mark.parametrize("device", DEVICES)
def test_scores_beyond_the_range_of_exp_stay_finite(device: str) -> None:
    q, k, v, grad = draw(len(visible(MIXED)), 4, 2, 8)
    inputs = [q * 40, k * 40, v, grad]  # scores of thousands: exp overflows at 709
    actual = with_gradients(tree_attention, [x.to(device) for x in inputs], layout_of(MIXED, device))
    # Nearly one-hot softmaxes have small gradients, left over when large numbers cancel.
    assert_close(actual, with_gradients(reference, inputs, visible(MIXED)), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_lower_precision_keeps_its_dtype_and_is_near(dtype: torch.dtype, tolerance: float) -> None:
    inputs = [x.to(dtype) for x in draw(len(visible(MIXED)), 4, 2, 8)]
    actual = with_gradients(tree_attention, inputs, layout_of(MIXED))
    assert {x.dtype for x in actual} == {dtype}
    assert_close(actual, with_gradients(reference, [x.double() for x in inputs], visible(MIXED)), tolerance)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_merged_parts_are_the_softmax_of_the_whole(cut: int) -> None:
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 2, 2, 9, 5, dtype=torch.float64)
    whole, whole_lse = attend(q, k, v, False)
    parts = [attend(q, k[:, :, part], v[:, :, part], False) for part in (slice(None, cut), slice(cut, None))]
    merged, lse = merge(*parts[0], *parts[1])
    torch.testing.assert_close(merged, whole, rtol=0, atol=1e-14)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=1e-14)
    expected = (q @ k.transpose(-1, -2) / math.sqrt(5)).logsumexp(-1)
    torch.testing.assert_close(whole_lse, expected, rtol=0, atol=1e-14)


def test_backward_of_parts_adds_up_to_the_backward_of_the_whole() -> None:
    torch.manual_seed(2)
    q, k, v, grad = torch.randn(4, 1, 2, 21, 5, dtype=torch.float64)
    out, lse = attend(q, k, v, False)
    whole = attend_backward(grad, q, k, v, out, lse, False)
    cuts = (slice(0, 6), slice(6, 21))
    parts = [attend_backward(grad, q, k[:, :, cut], v[:, :, cut], out, lse, False) for cut in cuts]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], rtol=0, atol=1e-13)
    for i in (1, 2):
        torch.testing.assert_close(torch.cat([p[i] for p in parts], dim=2), whole[i], rtol=0, atol=1e-13)
