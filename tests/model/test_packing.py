"""Packed rows: every token once, in its place, with the targets and the attention that belong to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.kernels.attention import PrefixSpan
from rethink.model.packing import BUCKET_FILL, PackedBatch, PackedGroup, pack

PROMPT_A, PROMPT_B = [10, 11, 12], [20]
GROUPS = [PackedGroup(PROMPT_A, [[1, 2, 3, 4], [5], [], [6, 7]]), PackedGroup(PROMPT_B, [[8, 9]])]


def test_row_holds_prompts_once_and_leaves_out_last_tokens() -> None:
    batch = pack(GROUPS)
    assert batch.tokens_T.tolist() == [10, 11, 12, 1, 2, 3, 6, 20, 8]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 4, 5, 3, 0, 1]
    assert batch.targets_C.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    # The first token of each completion is predicted by its prompt's last place.
    assert batch.head_rows_C.tolist() == [2, 3, 4, 5, 2, 2, 6, 7, 8]
    assert batch.lengths == (4, 1, 0, 2, 2)
    assert (batch.input_tokens, batch.target_tokens) == (9, 9)
    assert batch.groups == tuple(GROUPS)


def test_prefixes_span_a_group() -> None:
    assert pack(GROUPS).layout.prefixes == (PrefixSpan(0, 3, 3, 4), PrefixSpan(7, 1, 8, 1))


def test_input_tokens_of_a_group_are_what_the_row_takes() -> None:
    for group in GROUPS:
        assert group.input_tokens == pack([group]).input_tokens


def test_ids_may_be_numpy_or_tuples() -> None:
    batch = pack([PackedGroup((1, 2), [np.array([3, 4], dtype=np.int32)])])
    assert batch.tokens_T.tolist() == [1, 2, 3]
    assert batch.targets_C.tolist() == [3, 4]
    assert {x.dtype for x in (batch.tokens_T, batch.positions_T, batch.targets_C, batch.head_rows_C)} == {torch.long}


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt token"):
        pack([PackedGroup([1], [[2]]), PackedGroup([], [[2, 3]])])


def test_nothing_packs_to_nothing() -> None:
    batch = pack([])
    assert (batch.input_tokens, batch.target_tokens, batch.lengths) == (0, 0, ())


def test_completions_of_one_token_need_no_attention_of_their_own() -> None:
    layout = pack([PackedGroup([1, 2], [[3], [4]])]).layout
    assert layout.buckets == ()
    assert layout.prefixes == (PrefixSpan(0, 2, 2, 0),)


def completion_places(batch: PackedBatch) -> list[list[int]]:
    """Places in the row of each completion's inputs, from the rows that predict its targets."""
    places, start = [], 0
    for length in batch.lengths:
        places.append(batch.head_rows_C[start : start + length].tolist()[1:])
        start += length
    return [p for p in places if p]


@given(shapes=st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(0, 12), max_size=6)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_groups(shapes: list[tuple[int, list[int]]]) -> None:
    fresh = iter(range(10_000))  # every token another id, so that a mistaken place shows
    take = lambda n: [next(fresh) for _ in range(n)]  # noqa: E731
    groups = [PackedGroup(take(size), [take(n) for n in lengths]) for size, lengths in shapes]
    batch = pack(groups)
    completions = [(g, c) for g in groups for c in g.completions]
    assert batch.lengths == tuple(len(c) for _, c in completions)
    assert batch.targets_C.tolist() == [t for _, c in completions for t in c]
    # Each target is predicted from the token before it, which stands one position earlier.
    before = [t for g, c in completions if c for t in (g.prompt_ids[-1], *c[:-1])]
    assert batch.tokens_T[batch.head_rows_C].tolist() == before
    positions = [len(g.prompt_ids) - 1 + i for g, c in completions for i in range(len(c))]
    assert batch.positions_T[batch.head_rows_C].tolist() == positions
    # Spans cover the row without a gap, in order.
    end = 0
    for span, group in zip(batch.layout.prefixes, groups, strict=True):
        assert (span.prompt_start, span.prompt_size) == (end, len(group.prompt_ids))
        assert span.completions_start == end + span.prompt_size
        end = span.completions_start + span.completions_size
        assert span.prompt_size + span.completions_size == group.input_tokens
    assert end == batch.input_tokens
    # Buckets hold every completion once; padding stays within the completion and comes after it.
    found = []
    for bucket in batch.layout.buckets:
        valid = torch.ones_like(bucket.index_BS, dtype=torch.bool) if bucket.valid_BS is None else bucket.valid_BS
        sizes = valid.sum(1)
        assert int(sizes.max()) == bucket.index_BS.shape[1]
        assert int(sizes.min()) >= BUCKET_FILL * int(sizes.max())
        for index, real in zip(bucket.index_BS, valid, strict=True):
            own = index[real].tolist()
            assert real.tolist() == [True] * len(own) + [False] * (len(real) - len(own))
            assert set(index[~real].tolist()) <= {own[-1]}
            found.append(own)
    assert sorted(found) == sorted(completion_places(batch))
