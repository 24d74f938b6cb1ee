"""What the engine is made of: passes over prompts, and pages of the cache."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.rollout.forward import prefill_chunks
from rethink.rollout.pages import PagePool


@given(sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 29)), max_size=8), limit=st.integers(1, 20))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_passes_cover_all_prompts_in_order(sizes: list[tuple[int, int]], limit: int) -> None:
    prompts = [(i, min(cached, size - 1), [100 * i + t for t in range(size)]) for i, (size, cached) in enumerate(sizes)]
    passes = list(prefill_chunks(prompts, limit))
    assert all(0 < sum(len(c.token_ids) for c in chunks) <= limit for chunks in passes)
    for index, cached, ids in prompts:
        pieces = [c for chunks in passes for c in chunks if c.index == index]
        assert [t for c in pieces for t in c.token_ids] == ids[cached:]
        assert [c.start for c in pieces] == [
            cached + sum(len(p.token_ids) for p in pieces[:i]) for i in range(len(pieces))
        ]
        assert [c.last for c in pieces] == [False] * (len(pieces) - 1) + [True]
        assert len(pieces) == 1 or len(ids) - cached > limit  # what fits a pass is not cut
        assert all(len([c for c in chunks if c.index == index]) <= 1 for chunks in passes)


def test_pages_are_shared_counted_and_given_back() -> None:
    pool, ids = PagePool.of(12), list(range(40))
    first, cached = pool.take_prompt(ids)
    assert (len(first), cached) == (3, 0)
    again, cached = pool.take_prompt(ids)
    assert again[:2] == first[:2]
    assert again[2] != first[2]  # the page in which a prompt ends is nobody else's
    assert cached == 32
    whole, cached = pool.take_prompt(ids[:32])
    assert whole[0] == first[0]
    assert whole[1] != first[1]  # its last token's logits are needed, so its last page is computed again
    assert cached == 16
    assert len(pool.free) == 12 - 5
    for pages in (first, again, whole):
        pool.drop(pages)
    assert sorted(pool.free) == list(range(12))
    assert (pool.holders, pool.known, pool.names) == ({}, {}, {})
