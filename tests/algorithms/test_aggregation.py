"""Aggregation: what each kind means, and that no cut into micro-batches changes it."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rethink.algorithms.aggregation import Aggregation, token_weights

KINDS: tuple[Aggregation, ...] = ("sequence", "token", "fixed")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def weights(lengths: list[int], kind: Aggregation, whole: list[int] | None = None) -> Tensor:
    whole = whole or lengths
    denominator = 7.5 if kind == "fixed" else None
    return token_weights(
        torch.tensor(lengths, dtype=torch.int64),
        kind,
        total_completions=len(whole),
        total_tokens=sum(whole),
        denominator=denominator,
        dtype=torch.float64,
    )


def losses_of(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, generator=generator, dtype=torch.float64) for length in lengths]


def test_each_kind_is_the_average_it_says() -> None:
    lengths = [1, 3, 6]
    losses = losses_of(lengths)
    packed = torch.cat(losses)
    sequence = torch.stack([loss.mean() for loss in losses]).mean()
    fixed = torch.stack([loss.sum() / 7.5 for loss in losses]).mean()
    for kind, expected in [("sequence", sequence), ("token", packed.mean()), ("fixed", fixed)]:
        torch.testing.assert_close((weights(lengths, kind) * packed).sum(), expected, rtol=0, atol=1e-15)


@given(LENGTHS, st.sampled_from(KINDS), st.data())
def test_any_cut_and_any_order_give_the_same_loss(lengths: list[int], kind: Aggregation, data: st.DataObject) -> None:
    losses = losses_of(lengths)
    whole = (weights(lengths, kind) * torch.cat(losses)).sum()
    order = data.draw(st.permutations(range(len(lengths))))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(lengths) - 1)))))
    parts = [part for part in _split(list(order), cuts) if part]
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        part_lengths = [lengths[i] for i in part]
        total += (weights(part_lengths, kind, lengths) * torch.cat([losses[i] for i in part])).sum()
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-12)


def _split(items: list[int], cuts: list[int]) -> list[list[int]]:
    bounds = [0, *cuts, len(items)]
    return [items[start:end] for start, end in itertools.pairwise(bounds)]


def test_completions_left_out_stay_in_the_denominator() -> None:
    whole = weights([4, 2, 5], "sequence")
    assert torch.equal(weights([4, 5], "sequence", [4, 2, 5]), torch.cat([whole[:4], whole[6:]]))


def test_length_bias_of_each_kind() -> None:
    """A completion's whole weight: the same under `sequence`, proportional to its length under the others."""
    for kind, ratio in [("sequence", 1.0), ("token", 4.0), ("fixed", 4.0)]:
        short, long = weights([2, 8], kind).split([2, 8])
        assert float(long.sum() / short.sum()) == pytest.approx(ratio, abs=1e-12)


def test_nothing_at_hand_gives_no_weights() -> None:
    assert weights([], "sequence", [3]).shape == (0,)
    assert not weights([0, 2], "sequence").isinf().any()


def test_refuses_totals_that_cannot_be() -> None:
    lengths = torch.tensor([3, 4])
    with pytest.raises(ValueError, match="at hand"):
        token_weights(lengths, "token", total_completions=1, total_tokens=7)
    with pytest.raises(ValueError, match="at hand"):
        token_weights(lengths, "token", total_completions=2, total_tokens=6)
    with pytest.raises(ValueError, match="denominator"):
        token_weights(lengths, "fixed", total_completions=2, total_tokens=7)
    with pytest.raises(ValueError, match="denominator"):
        token_weights(lengths, "token", total_completions=2, total_tokens=7, denominator=5.0)
    with pytest.raises(ValueError, match="above 0"):
        token_weights(lengths, "fixed", total_completions=2, total_tokens=7, denominator=0.0)
    with pytest.raises(ValueError, match="allowed"):
        token_weights(lengths, "median", total_completions=2, total_tokens=7)  # type: ignore[arg-type]
