"""The embedded engine: continuous batching over shared prefixes, on any device that torch has.

    generate ─► plan the caches ─► loop: admit waiting groups (prefill, first tokens) ─► one decode step ─► retire ends

Each group's prompt is computed once. Sequences that end leave the batch at once; the last one moves into their place,
so the batch stays dense; waiting samples and groups enter. What a sample draws depends on its seed and position only;
its logits may differ in the last bits with the batch's size (bf16 products), see docs/determinism.md.

Axes: B running sequences, R group rows, E hidden size, V vocabulary; see also `kernels/decode.py`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rethink.kernels.decode import Grid, LayerCache, decode_attention
from rethink.kernels.elementwise import rms_norm, swiglu_inference
from rethink.kernels.linear import PackedLinear
from rethink.model.decoder import Decoder
from rethink.rollout.engine import OnFinish
from rethink.rollout.kv_pool import PoolPlan, allocate, plan_pool, round_up
from rethink.rollout.prefill import prefill, prefill_chunks
from rethink.rollout.samples import RunningSample, all_ended, check_requests, completion_of, draw_tokens
from rethink.rollout.stopping import end_of
from rethink.types import Completion, FinishReason, GenerationRequest

DEFAULT_KV_BUDGET = 2 << 30
PREFILL_TOKENS = 2048
"""Prompt tokens computed in one pass; longer prompts are cut."""


@dataclass(slots=True)
class _Group:
    """A request whose prefix is in the caches."""

    request: int
    row: int
    prompt_size: int
    first_logits_V: Tensor
    waiting: deque[int]
    """Samples not yet started."""
    running: int = 0


@dataclass(slots=True, kw_only=True)
class _Sequence(RunningSample):
    """A running sample and where its prefix lies."""

    group: _Group


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
        # Caches and packed weights are made anew each time, which takes a few hundredths of what a generation takes:
        # between generations a trainer needs the memory.
        with torch.inference_mode():
            plan = plan_pool(requests, self.model.config, self.model.dtype, self._budget, self._max_concurrent)
            caches = allocate(plan, self.model.config, self.model.dtype, self.model.device)
            return _Generation(self, _PackedWeights(self.model), requests, plan, caches, on_finish).run()


class _PackedWeights:
    """The decoder's matrices, laid out for few rows; made once per weight update."""

    def __init__(self, model: Decoder):
        self.layers = [
            (PackedLinear(w.qkv, w.qkv_bias), PackedLinear(w.output), PackedLinear(w.gate_up), PackedLinear(w.down))
            for w in model.layers
        ]
        self.head = PackedLinear(model.head)


class _Generation:
    """State of one `generate` call."""

    def __init__(
        self,
        engine: TorchEngine,
        packed: _PackedWeights,
        requests: Sequence[GenerationRequest],
        plan: PoolPlan,
        caches: list[LayerCache],
        on_finish: OnFinish | None,
    ):
        self.model, self.decode, self.packed = engine.model, engine._decode, packed
        self.prefill_tokens = engine._prefill_tokens
        self.requests, self.plan, self.caches, self.on_finish = requests, plan, caches, on_finish
        self.results: list[list[Completion | None]] = [[None] * r.n for r in requests]
        self.queue = deque(i for i, r in enumerate(requests) if r.n)
        self.groups: list[_Group | None] = [None] * plan.rows
        self.batch: list[_Sequence] = []
        size = (plan.sequences, plan.prefix + plan.own)
        self.mask_BS = torch.full(size, -math.inf, dtype=self.model.accurate, device=self.model.device)

    def run(self) -> list[list[Completion]]:
        """Until every sample has ended."""
        while self._admit() or self.batch:
            self._step()
        return all_ended(self.results)

    # Admission

    def _admit(self) -> bool:
        """Start waiting samples where there is room; prefill groups for them. True if anything was started."""
        started = 0  # counted, since samples that end with their first token are gone from the batch at once
        for group in self.groups:
            if group is not None:
                started += self._start(group)
        while self.queue and len(self.batch) < self.plan.sequences and (rows := self._free_rows()):
            chosen: list[tuple[int, int]] = []
            room = self.plan.sequences - len(self.batch)
            while self.queue and rows and room > 0:
                request = self.queue.popleft()
                chosen.append((request, rows.pop(0)))
                room -= self.requests[request].n
            for group in self._prefill(chosen):
                self.groups[group.row] = group
                started += self._start(group)
        return started > 0

    def _free_rows(self) -> list[int]:
        return [row for row, group in enumerate(self.groups) if group is None]

    def _prefill(self, chosen: list[tuple[int, int]]) -> list[_Group]:
        prompts = [(row, self.requests[request].prompt_ids) for request, row in chosen]
        logits: dict[int, Tensor] = {}
        for chunks in prefill_chunks(prompts, self.prefill_tokens):
            for row, hidden_E in prefill(self.model, chunks, self.caches).items():
                logits[row] = self.packed.head(hidden_E[None])[0]
        return [
            _Group(i, row, len(self.requests[i].prompt_ids), logits[row], deque(range(self.requests[i].n)))
            for i, row in chosen
        ]

    def _start(self, group: _Group) -> int:
        """Draw the first token of as many of the group's waiting samples as there is room for; returns how many."""
        number = min(len(group.waiting), self.plan.sequences - len(self.batch))
        if number <= 0:
            return 0
        request, now = self.requests[group.request], time.perf_counter()
        fresh = []
        for _ in range(number):
            index = group.waiting.popleft()
            sequence = _Sequence(
                group=group, index=index, seed=request.seeds[index], params=request.params, started=now
            )
            self.mask_BS[len(self.batch)] = -math.inf
            self.mask_BS[len(self.batch), : group.prompt_size] = 0
            self.batch.append(sequence)
            group.running += 1
            fresh.append(sequence)
        draw_tokens(group.first_logits_V[None].expand(number, -1), fresh)
        self._retire()
        return number

    # Decoding

    def _step(self) -> None:
        """One token for every running sequence."""
        if not self.batch:
            return
        counts = [len(s.tokens) for s in self.batch]
        device, b = self.model.device, len(self.batch)
        last = torch.tensor([c - 1 for c in counts], device=device)
        slots = torch.arange(b, device=device)
        self.mask_BS[slots, last + self.plan.prefix] = 0
        places = min(round_up(max(counts)), self.plan.own)
        tokens = torch.tensor([s.tokens[-1] for s in self.batch], device=device)
        positions = torch.tensor([s.group.prompt_size + c - 1 for s, c in zip(self.batch, counts, strict=True)])
        logits = self._forward(tokens, positions.to(device), slots, last, places)
        draw_tokens(logits, self.batch)
        self._retire()

    def _forward(self, tokens: Tensor, positions: Tensor, slots: Tensor, last: Tensor, places: int) -> Tensor:
        model, config = self.model, self.model.config
        cos, sin = model.rope(positions)
        grid, mask = self._grid(), self.mask_BS[: len(self.batch), : self.plan.prefix + places]
        x = F.embedding(tokens, model.embedding).to(model.accurate)
        for layer, (qkv, output, gate_up, down), cache in zip(
            model.layers, self.packed.layers, self.caches, strict=True
        ):
            h = rms_norm(x, layer.input_norm, config.rms_norm_eps, model.dtype)
            q, k, v = model.project_qkv(layer, qkv(h), cos, sin)
            cache.own_k_BKCD[slots, :, last] = k
            cache.own_v_BKCD[slots, :, last] = v
            x += output(decode_attention(q, cache, grid, places, mask).reshape(len(slots), -1))
            h = rms_norm(x, layer.post_norm, config.rms_norm_eps, model.dtype)
            x += down(swiglu_inference(gate_up(h)))
        return self.packed.head(rms_norm(x, model.final_norm, config.rms_norm_eps, model.dtype))

    def _grid(self) -> Grid:
        taken = [0] * self.plan.rows
        places = []
        for sequence in self.batch:
            places.append(taken[sequence.group.row])
            taken[sequence.group.row] += 1
        rows = max(row for row, number in enumerate(taken) if number) + 1

        def as_tensor(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, device=self.model.device)

        return Grid(rows, max(taken), as_tensor([s.group.row for s in self.batch]), as_tensor(places))

    # Ends

    def _retire(self) -> None:
        """Take ended sequences out of the batch; the last one moves into each hole."""
        for slot in range(len(self.batch) - 1, -1, -1):
            sequence = self.batch[slot]
            reason = end_of(sequence.tokens, sequence.params, self.decode)
            if reason is None:
                continue
            self._finish(sequence, reason)
            last = len(self.batch) - 1
            if slot != last:
                self._move(last, slot)
            self.batch.pop()

    def _move(self, source: int, target: int) -> None:
        self.batch[target] = self.batch[source]
        used = len(self.batch[source].tokens)
        self.mask_BS[target] = self.mask_BS[source]
        for cache in self.caches:
            cache.own_k_BKCD[target, :, :used] = cache.own_k_BKCD[source, :, :used]
            cache.own_v_BKCD[target, :, :used] = cache.own_v_BKCD[source, :, :used]

    def _finish(self, sequence: _Sequence, reason: FinishReason) -> None:
        group = sequence.group
        completion = completion_of(sequence, reason, self.decode)
        self.results[group.request][sequence.index] = completion
        group.running -= 1
        if not group.running and not group.waiting:
            self.groups[group.row] = None
        if self.on_finish is not None:
            self.on_finish(group.request, sequence.index, completion)
