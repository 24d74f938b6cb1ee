"""FlexAttention's mask of a packed row against our own tree attention. On a CPU it runs uncompiled."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from rethink.kernels.attention import TreeLayout, ends_of, tree_attention
from rethink.kernels.elementwise import rms_norm, rotate, swiglu, swiglu_inference
from rethink.kernels.flex import FLEX_BLOCK, block_mask, flex_tree_attention
from rethink.model.decoder.packing import PackedGroup, pack


def row(seed: int, groups: int, longest: int) -> TreeLayout:
    """The layout of a row whose prompts share a prefix."""
    dice = random.Random(seed)

    def ids(size: int) -> list[int]:
        return [dice.randrange(50) for _ in range(size)]

    prefix = ids(dice.randrange(1, longest))
    made = [
        PackedGroup([*prefix, *ids(dice.randrange(longest))], [ids(dice.randrange(longest)) for _ in range(3)])
        for _ in range(groups)
    ]
    return pack(made).layout


def seen(layout: TreeLayout) -> Tensor:
    """[T, T]: which keys each query sees, from the segments and their parents alone."""
    size = sum(segment.size for segment in layout.segments)
    out = torch.zeros(size, size, dtype=torch.bool)
    for segment in layout.segments:
        own = slice(segment.start, segment.start + segment.size)
        out[own, own] = torch.ones(segment.size, segment.size, dtype=torch.bool).tril()
        parent = segment.parent
        while parent is not None:
            above = layout.segments[parent]
            out[own, above.start : above.start + above.size] = True
            parent = above.parent
    return out


@pytest.mark.parametrize(("seed", "groups", "longest"), [(0, 1, 9), (1, 3, 90), (2, 4, 200), (3, 2, 400)])
def test_blocks_cover_what_is_seen_and_whole_ones_are_whole(seed: int, groups: int, longest: int) -> None:
    layout = row(seed, groups, longest)
    truth = seen(layout)
    mask = block_mask(ends_of(layout.segments), "cpu")
    size, blocks = len(truth), -(-len(truth) // FLEX_BLOCK)
    index = torch.arange(size)
    rule = mask.mask_mod(torch.tensor(0), torch.tensor(0), index[:, None], index[None, :])
    assert torch.equal(rule, truth)
    padded = torch.zeros(blocks * FLEX_BLOCK, blocks * FLEX_BLOCK, dtype=torch.bool)
    padded[:size, :size] = truth
    tiles = padded.view(blocks, FLEX_BLOCK, blocks, FLEX_BLOCK)
    partial, whole = torch.zeros(2, blocks, blocks, dtype=torch.bool)
    assert mask.full_kv_num_blocks is not None
    assert mask.full_kv_indices is not None
    for i in range(blocks):
        partial[i, mask.kv_indices[0, 0, i, : mask.kv_num_blocks[0, 0, i]].long()] = True
        whole[i, mask.full_kv_indices[0, 0, i, : mask.full_kv_num_blocks[0, 0, i]].long()] = True
    assert not (partial & whole).any()
    assert bool(tiles.all(dim=3).all(dim=1)[whole].all())
    assert torch.equal(partial | whole, tiles.any(dim=3).any(dim=1) | partial | whole)
    assert not whole.any() or blocks > 1


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_values_are_those_of_tree_attention(kv_heads: int) -> None:
    """Values alone: torch has no gradient of FlexAttention on a CPU. `rethink gpu-check` compares those on a GPU."""
    values_agree(kv_heads, torch.float64, compiled=False)


@pytest.mark.slow
def test_compiled_values_are_those_of_tree_attention() -> None:
    """The compiled kernel visits only the mask's blocks."""
    values_agree(2, torch.float32, compiled=True)


def values_agree(kv_heads: int, dtype: torch.dtype, compiled: bool) -> None:
    layout = row(5, 3, 80)
    size = sum(segment.size for segment in layout.segments)
    assert size > FLEX_BLOCK
    torch.manual_seed(0)
    q, k, v = (torch.randn(size, heads, 16, dtype=dtype) for heads in (4, kv_heads, kv_heads))
    found = flex_tree_attention(q, k, v, block_mask(ends_of(layout.segments), "cpu"), compiled)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, tree_attention(q, k, v, layout), rtol=tolerance, atol=tolerance)


def test_no_native_operation_takes_a_tensor_of_another_device() -> None:
    """A pointer into another device's memory ends the process, so the operations must notice. `meta` stands for all."""
    torch.manual_seed(0)
    x = torch.randn(3, 32, device="meta", requires_grad=True)
    for dtype in (torch.float32, torch.bfloat16):
        out = rms_norm(x, torch.ones(32, device="meta"), 1e-6, dtype)
        assert (out.device.type, out.dtype) == ("meta", dtype)
        out.float().sum().backward()
    heads, angles = x.view(3, 2, 16), torch.ones(3, 16, device="meta")
    assert rotate(heads, angles, angles).device.type == "meta"
    assert swiglu(x).device.type == swiglu_inference(x).device.type == "meta"
