"""Packed rows: every token once, in its place, with the targets and the attention that belong to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.kernels.attention import BLOCK, BUCKET_FILL, Segment
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack

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


def test_segments_are_a_tree() -> None:
    assert pack(GROUPS).layout.segments == (
        Segment(0, 3, 7, 0, None),
        Segment(3, 3, 6, 3, 0),
        Segment(6, 1, 7, 3, 0),
        Segment(7, 1, 9, 0, None),
        Segment(8, 1, 9, 1, 3),
    )


def test_what_prompts_begin_with_alike_stands_once() -> None:
    prompts = [[1, 2, 3, 4], [1, 2, 5], [1, 2], [9], [1, 2, 3, 4]]
    groups = [PackedGroup(ids, [[50 + i, 60 + i, 7]]) for i, ids in enumerate(prompts)]
    batch = pack(groups)
    assert sorted(batch.tokens_T.tolist()) == sorted(
        [1, 2, 3, 4, 5, 9, *(t for i in range(5) for t in (50 + i, 60 + i))]
    )
    # Whatever the order in the row: every target is predicted behind its own whole sequence.
    place = 0
    for group in groups:
        for completion in group.completions:
            for n in range(len(completion)):
                sequence = [*group.prompt_ids, *completion[:n]]
                assert path_of(batch, int(batch.head_rows_C[place])) == sequence
                assert int(batch.positions_T[batch.head_rows_C[place]]) == len(sequence) - 1
                place += 1


def path_of(batch: PackedBatch, row: int) -> list[int]:
    """The tokens that a row's sequence consists of, from the segments' parents."""
    segments = batch.layout.segments
    index = next(i for i, s in enumerate(segments) if s.start <= row < s.start + s.size)
    path = batch.tokens_T[segments[index].start : row + 1].tolist()
    parent = segments[index].parent
    while parent is not None:
        s = segments[parent]
        path = batch.tokens_T[s.start : s.start + s.size].tolist() + path
        parent = s.parent
    return path


@given(
    prompts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_blocks_hold_each_sequence_in_order(prompts: list[list[int]], lengths: list[int]) -> None:
    batch = pack([PackedGroup(p, [[3] * n for n in lengths]) for p in prompts])
    plan, segments = batch.layout.plan, batch.layout.segments
    rows = [r for s in segments for r in range(s.start, s.start + s.size)]
    assert rows == list(range(batch.input_tokens))
    for index, segment in enumerate(segments):
        for row in range(segment.start, segment.start + segment.size):
            position = segment.position + row - segment.start
            places = [int(plan.source_N16[plan.tables_SW[index, p // BLOCK], p % BLOCK]) for p in range(position + 1)]
            assert places[-1] == row
            assert batch.tokens_T[places].tolist() == path_of(batch, row)
            assert batch.positions_T[places].tolist() == list(range(position + 1))
    # Who sees a key is one range of rows: those behind it in its segment and all that descend from it.
    for row in rows:
        owner = next(s for s in segments if s.start <= row < s.start + s.size)
        for other in rows:
            sees = other >= row and other < owner.end
            index = next(i for i, s in enumerate(segments) if s.start <= other < s.start + s.size)
            line = {index}
            while (parent := segments[index].parent) is not None:
                index = parent
                line.add(index)
            assert sees == (other >= row and segments.index(owner) in line)


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
    assert layout.segments == (Segment(0, 2, 2, 0, None),)


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
    # Segments cover the row without a gap, in order; each prompt is one, and so is each completion with inputs.
    sizes = [n for g in groups for n in (len(g.prompt_ids), *(len(c) - 1 for c in g.completions if len(c) > 1))]
    assert [s.size for s in batch.layout.segments] == sizes
    assert [s.start for s in batch.layout.segments] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == batch.input_tokens == sum(g.input_tokens for g in groups)
    # Buckets hold every segment once; padding stays within the completion and comes after it.
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
    assert sorted(found) == [list(range(s.start, s.start + s.size)) for s in batch.layout.segments]
