"""The embedded engine: continuous batching over paged, shared prefixes, on any device that torch has.

    generate ─► plan the pages ─► loop: admit waiting samples (prefill, first tokens) ─► one decode step ─► retire ends

What prompts begin with alike is computed once, each prompt's rest once per group. Sequences that end leave the batch at
once; the last one takes their place in it, so the batch stays dense, and no key or value moves. What a sample draws
depends on its seed and position only. With native kernels neither does any logit depend on what shares the batch, and
log-probabilities are bit for bit those of the trainer; else they may differ in the last bits, see docs/determinism.md.

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

from rethink.kernels.native import ops
from rethink.kernels.paged import PAGE, PagedCache, cache_rows, copy_page, new_cache
from rethink.kernels.trace import traced
from rethink.model.decoder import Decoder
from rethink.rollout.engine import OnFinish
from rethink.rollout.forward import Chunk, PackedWeights, hidden_rows, prefill_chunks
from rethink.rollout.pages import PagePool, PoolPlan, own_pages, pages_of, plan_pool
from rethink.rollout.samples import RunningSample, all_ended, check_requests, completion_of, draw_tokens
from rethink.rollout.stopping import end_of
from rethink.types import Completion, FinishReason, GenerationRequest

DEFAULT_KV_BUDGET = 2 << 30
PREFILL_TOKENS = 2048
"""Prompt tokens computed in one pass; longer prompts are cut."""


@dataclass(slots=True)
class _Group:
    """A request whose prompt is in the cache."""

    request: int
    pages: list[int]
    waiting: deque[int]
    """Samples not yet started."""
    first_logits_V: Tensor | None = None


@dataclass(slots=True, kw_only=True)
class _Sequence(RunningSample):
    """A running sample and the pages of its whole sequence."""

    request: int
    prompt_size: int
    pages: list[int]


class TorchEngine:
    """`RolloutEngine` on our decoder.

    Args:
        model: the policy; its weights are read, never copied.
        decode: token ids to text.
        kv_budget_bytes: most memory for keys and values.
        max_concurrent: most sequences decoded at once; None: what fits, up to 128.
    """

    def __init__(
        self,
        model: Decoder,
        decode: Callable[[Sequence[int]], str],
        *,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET,
        max_concurrent: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
    ):
        self.model = model
        self.context = model.config.max_position_embeddings
        if model.config.sliding_window is not None:
            self.context = min(self.context, model.config.sliding_window)
        self.exact_logprobs = has_exact_kernels(model)
        self._decode = decode
        self._budget = kv_budget_bytes
        self._max_concurrent = max_concurrent
        self._prefill_tokens = prefill_tokens

    def weights_changed(self) -> None:
        """Nothing to do: what is derived from the weights lives only as long as one `generate`."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
    ) -> list[list[Completion]]:
        """See `RolloutEngine.generate`."""
        check_requests(requests, self.context)
        if not any(r.n for r in requests):
            return [[] for _ in requests]
        # Pages and packed weights are made anew each time, which takes a few hundredths of what a generation takes:
        # between generations a trainer needs the memory.
        with torch.inference_mode():
            plan = plan_pool(requests, self.model.config, self.model.dtype, self._budget, self._max_concurrent)
            return _Generation(self, PackedWeights(self.model), requests, plan, on_finish).run()


def has_exact_kernels(model: Decoder) -> bool:
    """Whether every operation has a native kernel whose rows do not depend on each other."""
    return ops.has_products(model.embedding) and model.config.head_dim % PAGE == 0


def _new_caches(model: Decoder, pages: int) -> list[PagedCache]:
    c = model.config
    return [new_cache(pages, c.num_kv_heads, c.head_dim, model.dtype, model.device) for _ in range(c.num_layers)]


class _Generation:
    """State of one `generate` call."""

    def __init__(
        self,
        engine: TorchEngine,
        packed: PackedWeights,
        requests: Sequence[GenerationRequest],
        plan: PoolPlan,
        on_finish: OnFinish | None,
    ):
        self.model, self.decode, self.packed = engine.model, engine._decode, packed
        self.prefill_tokens = engine._prefill_tokens
        self.requests, self.plan, self.on_finish = requests, plan, on_finish
        self.caches = _new_caches(engine.model, plan.pages)
        self.pool = PagePool.of(plan.pages)
        self.results: list[list[Completion | None]] = [[None] * r.n for r in requests]
        self.queue = deque(i for i, r in enumerate(requests) if r.n)
        self.groups: deque[_Group] = deque()
        self.batch: list[_Sequence] = []
        self.tables_SW = np.zeros((plan.sequences, plan.table), dtype=np.int32)

    def run(self) -> list[list[Completion]]:
        """Until every sample has ended."""
        while self._admit() or self.batch:
            self._step()
        return all_ended(self.results)

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
            request = self.requests[self.queue[0]]
            shared = len(self.pool.shared_beginning(request.prompt_ids))
            needed = pages_of(len(request.prompt_ids)) - shared
            own = own_pages(request)
            if needed + own > free:
                break
            pages, cached = self.pool.take_prompt(request.prompt_ids)
            chosen.append((_Group(self.queue.popleft(), pages, deque(range(request.n))), cached))
            running = min(request.n, room, (free - needed) // own if own else room)
            free, room = free - needed - running * own, room - running
        if not chosen:
            return False
        self._prefill(chosen)
        self.groups.extend(group for group, _ in chosen)
        return True

    def _prefill(self, chosen: list[tuple[_Group, int]]) -> None:
        prompts = [(i, cached, self.requests[g.request].prompt_ids) for i, (g, cached) in enumerate(chosen)]
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
        request, now = self.requests[group.request], time.perf_counter()
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
            sequence = _Sequence(
                request=group.request,
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
        draw_tokens(group.first_logits_V[None].expand(number, -1), fresh)
        self._retire()
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
        draw_tokens(self.packed.head.exact(hidden), self.batch)
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
            last = self.batch.pop()
            if last is not sequence:
                self.batch[slot] = last
                self.tables_SW[slot] = self.tables_SW[len(self.batch)]

    def _finish(self, sequence: _Sequence, reason: FinishReason) -> None:
        self.pool.drop(sequence.pages)
        completion = completion_of(sequence, reason, self.decode)
        self.results[sequence.request][sequence.index] = completion
        if self.on_finish is not None:
            self.on_finish(sequence.request, sequence.index, completion)
