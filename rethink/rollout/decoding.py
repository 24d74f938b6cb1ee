"""Continuous batching over paged, shared prefixes, one step at a time: requests come and go while others are decoded.

    submit ─► step: admit waiting samples (prefill, first tokens), one token for all running ─► ended ones are told of
       cancel at any time between steps

What prompts begin with alike is computed once, each prompt's rest once per group. Sequences that end leave the batch at
once; the last one takes their place in it, so the batch stays dense, and no key or value moves.

Axes: B running sequences, S slots, W pages of the longest, E hidden size, V vocabulary; see also `kernels/paged.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rethink.kernels.paged import PAGE, PagedCache, cache_rows, copy_page, new_cache
from rethink.kernels.trace import traced
from rethink.model.decoder.decoder import Decoder
from rethink.rollout.forward import Chunk, PackedWeights, hidden_rows, prefill_chunks
from rethink.rollout.pages import PagePool, PoolPlan, own_pages, pages_of
from rethink.rollout.running import RunningSample, draw_tokens
from rethink.rollout.stopping import end_of
from rethink.types import FinishReason, GenerationRequest

PREFILL_TOKENS = 2048
"""Prompt tokens computed in one pass; longer prompts are cut."""


@dataclass(slots=True, eq=False)
class _Group:
    """A request whose prompt is in the cache."""

    key: int
    request: GenerationRequest
    pages: list[int]
    waiting: deque[int]
    """Samples not yet started."""
    first_logits_V: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class RunningSequence(RunningSample):
    """A running sample and the pages of its whole sequence."""

    key: int
    """Of its request."""
    prompt_size: int
    pages: list[int]


OnEnd = Callable[[RunningSequence, FinishReason], None]
"""(the sample, why it ended)"""
OnDraw = Callable[[Tensor, Sequence[RunningSequence]], None]
"""(logits [B, V], the sequences whose newest tokens were drawn from them), called at once: the logits do not last."""


def _new_caches(model: Decoder, pages: int) -> list[PagedCache]:
    c = model.config
    return [new_cache(pages, c.num_kv_heads, c.head_dim, model.dtype, model.device) for _ in range(c.num_layers)]


class Decoding:
    """Requests that are being generated. Not thread-safe; run it within `torch.inference_mode`.

    Args:
        model: the policy, whose weights must not change meanwhile.
        packed: its matrices.
        decode: token ids to text.
        plan: memory and places; a request that could never fit must not be submitted.
        prefill_tokens: prompt tokens computed in one pass.
        on_end: told of each sample that has ended.
        on_draw: shown the logits of every draw.
    """

    def __init__(
        self,
        model: Decoder,
        packed: PackedWeights,
        decode: Callable[[Sequence[int]], str],
        plan: PoolPlan,
        *,
        prefill_tokens: int = PREFILL_TOKENS,
        on_end: OnEnd,
        on_draw: OnDraw | None = None,
    ):
        self.model, self.packed, self.decode, self.plan = model, packed, decode, plan
        self.prefill_tokens, self.on_end, self.on_draw = prefill_tokens, on_end, on_draw
        self.caches = _new_caches(model, plan.pages)
        self.pool = PagePool.of(plan.pages)
        self.queue: deque[tuple[int, GenerationRequest]] = deque()
        self.groups: deque[_Group] = deque()
        self.batch: list[RunningSequence] = []
        self.tables_SW = np.zeros((plan.sequences, plan.table), dtype=np.int32)

    def submit(self, key: int, request: GenerationRequest) -> None:
        """Take a request with at least one sample; it starts in a later step. Its key must be its own."""
        self.queue.append((key, request))

    def cancel(self, key: int) -> None:
        """Drop a request and all its samples, wherever they are; nothing more is told of them."""
        self.queue = deque(entry for entry in self.queue if entry[0] != key)
        for group in [g for g in self.groups if g.key == key]:
            self.pool.drop(group.pages)
            self.groups.remove(group)
        for slot in range(len(self.batch) - 1, -1, -1):
            if self.batch[slot].key == key:
                self.pool.drop(self.batch[slot].pages)
                self._vacate(slot)

    @property
    def waiting(self) -> bool:
        """Whether a request, or a sample of one, has not started."""
        return bool(self.queue or self.groups)

    def step(self) -> bool:
        """Start what there is room for, then draw one token for each running sequence. False: nothing is left.

        Raises:
            EngineFailure: the probabilities are not finite; nothing can go on.
        """
        if not (self._admit() or self.batch):
            return False
        self._step()
        return True

    # Admission

    def _admit(self) -> bool:
        """Start waiting samples where there is room; prefill prompts for them. True if anything was started."""
        started = 0  # counted, since samples that end with their first token are gone from the batch at once
        while True:
            fresh = self._start_waiting()
            started += fresh
            if self.groups or not self._prefill_next():  # groups that still wait come before new ones
                return started > 0

    def _start_waiting(self) -> int:
        started = 0
        while self.groups:
            group = self.groups[0]
            started += self._start(group)
            if group.waiting:
                break
            self.pool.drop(group.pages)
            self.groups.popleft()
        return started

    def _prefill_next(self) -> bool:
        """Compute the prompts of the next requests that have room for at least one sample; False where none has."""
        room, free = self.plan.sequences - len(self.batch), len(self.pool.free)
        chosen: list[tuple[_Group, int]] = []
        while self.queue and room > 0:
            key, request = self.queue[0]
            shared = len(self.pool.shared_beginning(request.prompt_ids))
            needed = pages_of(len(request.prompt_ids)) - shared
            own = own_pages(request)
            if needed + own > free:
                break
            pages, cached = self.pool.take_prompt(request.prompt_ids)
            self.queue.popleft()
            chosen.append((_Group(key, request, pages, deque(range(request.n))), cached))
            running = min(request.n, room, (free - needed) // own if own else room)
            free, room = free - needed - running * own, room - running
        if not chosen:
            return False
        self._prefill(chosen)
        self.groups.extend(group for group, _ in chosen)
        return True

    def _prefill(self, chosen: list[tuple[_Group, int]]) -> None:
        prompts = [(i, cached, g.request.prompt_ids) for i, (g, cached) in enumerate(chosen)]
        tables = np.zeros((len(chosen), self.plan.table), dtype=np.int32)
        for i, (group, _) in enumerate(chosen):
            tables[i, : len(group.pages)] = group.pages
        for chunks in prefill_chunks(prompts, self.prefill_tokens):
            ended = [c for c in chunks if c.last]
            logits = self._prefill_pass(chunks, tables)
            for chunk, row in zip(ended, logits, strict=True):
                chosen[chunk.index][0].first_logits_V = row

    @traced("prefill")
    def _prefill_pass(self, chunks: Sequence[Chunk], tables: np.ndarray) -> Tensor:
        """First logits of the prompts that end in this pass, in order."""
        lengths = np.array([len(c.token_ids) for c in chunks], dtype=np.int32)
        ends = lengths.cumsum(dtype=np.int32)
        starts = np.array([c.start for c in chunks], dtype=np.int32)
        index = np.array([c.index for c in chunks], dtype=np.int32)
        rows = cache_rows(ends - lengths, lengths, starts, index, tables)
        tokens = torch.tensor([t for c in chunks for t in c.token_ids], device=self.model.device)
        positions = torch.cat([torch.arange(c.start, c.start + len(c.token_ids)) for c in chunks])
        wanted = torch.tensor([e - 1 for c, e in zip(chunks, ends.tolist(), strict=True) if c.last], dtype=torch.long)
        positions, wanted = positions.to(self.model.device), wanted.to(self.model.device)
        hidden = hidden_rows(self.model, self.packed, tokens, positions, rows, self.caches, wanted)
        return self.packed.head.exact(hidden)

    def _start(self, group: _Group) -> int:
        """Draw the first token of as many of the group's waiting samples as there is room for; returns how many."""
        request, now = group.request, time.perf_counter()
        own, whole = own_pages(request), len(request.prompt_ids) // PAGE
        number = min(len(group.waiting), self.plan.sequences - len(self.batch))
        if own:
            number = min(number, len(self.pool.free) // own)
        if number <= 0 or group.first_logits_V is None:
            return 0
        fresh = []
        for _ in range(number):
            index = group.waiting.popleft()
            pages = group.pages[:whole]
            for page in pages:
                self.pool.hold(page)
            pages = [*pages, *(self.pool.take() for _ in range(own))]
            if own and len(group.pages) > whole:  # the prompt ends within a page: each sample goes on in its own copy
                for cache in self.caches:
                    copy_page(cache, group.pages[whole], pages[whole])
            self.tables_SW[len(self.batch), : len(pages)] = pages
            sequence = RunningSequence(
                key=group.key,
                prompt_size=len(request.prompt_ids),
                pages=pages,
                index=index,
                seed=request.seeds[index],
                params=request.params,
                on_token=request.on_token,
                started=now,
            )
            self.batch.append(sequence)
            fresh.append(sequence)
        self._draw(group.first_logits_V[None].expand(number, -1), fresh)
        return number

    # Decoding

    @traced("decode")
    def _step(self) -> None:
        """One token for every running sequence."""
        if not self.batch:
            return
        b, device = len(self.batch), self.model.device
        order = np.arange(b, dtype=np.int32)
        positions = np.array([s.prompt_size + len(s.tokens) - 1 for s in self.batch], dtype=np.int32)
        rows = cache_rows(order, np.ones(b, dtype=np.int32), positions, order, self.tables_SW)
        tokens = torch.tensor([s.tokens[-1] for s in self.batch], device=device)
        at = torch.from_numpy(positions).long().to(device)
        hidden = hidden_rows(self.model, self.packed, tokens, at, rows, self.caches)
        self._draw(self.packed.head.exact(hidden), self.batch)

    def _draw(self, logits_BV: Tensor, sequences: Sequence[RunningSequence]) -> None:
        draw_tokens(logits_BV, sequences)
        if self.on_draw is not None:
            self.on_draw(logits_BV, sequences)
        self._retire()

    # Ends

    def _retire(self) -> None:
        """Take ended sequences out of the batch; the last one takes each one's place."""
        for slot in range(len(self.batch) - 1, -1, -1):
            sequence = self.batch[slot]
            reason = end_of(sequence.tokens, sequence.params, self.decode)
            if reason is None:
                continue
            self._finish(sequence, reason)
            self._vacate(slot)

    def _vacate(self, slot: int) -> None:
        last = self.batch.pop()
        if slot < len(self.batch):
            self.batch[slot] = last
            self.tables_SW[slot] = self.tables_SW[len(self.batch)]

    def _finish(self, sequence: RunningSequence, reason: FinishReason) -> None:
        self.pool.drop(sequence.pages)
        self.on_end(sequence, reason)
