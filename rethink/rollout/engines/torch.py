"""The engine of Rethink's own decoder: continuous batching over paged, shared prefixes, on any device that torch has.

    submit ─► plan the pages ─► requests into a `Decoding` ─► step until nothing is left

What a sample draws depends on its seed and position only. With native kernels neither does any logit depend on what
shares the batch, and log-probabilities are bit for bit those of the trainer; else they may differ in the last bits, see
docs/determinism.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rethink.errors import UsageError
from rethink.kernels.native import ops
from rethink.kernels.paged import PAGE
from rethink.machine.placement import Placement
from rethink.model.build import build_model
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.decoder import Decoder
from rethink.model.language_model import LanguageModel
from rethink.model.loading import Checkpoint
from rethink.rollout.decoding import PREFILL_TOKENS, Decoding, OnDraw, RunningSequence
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Opening
from rethink.rollout.forward import PackedWeights
from rethink.rollout.pages import PoolPlan, bytes_per_page, pages_needed, plan_pool, table_of
from rethink.rollout.running import completion_of
from rethink.types import FinishReason, GenerationRequest

DEFAULT_KV_BUDGET = 2 << 30


class TorchEngine(RolloutEngine):
    """`RolloutEngine` on our decoder.

    Pages and packed weights are made for the requests that are there at the first step, and dropped when none is left,
    which takes a few hundredths of what a generation takes: between generations a trainer needs the memory. A request
    that comes later enters the running batch where it fits. After `reserve` all are kept.

    Args:
        model: the policy; its weights are read, never copied.
        decode: token ids to text.
        kv_budget_bytes: most memory for keys and values.
        max_concurrent: most sequences decoded at once; None: what fits, up to 128.
    """

    model: Decoder

    def __init__(
        self,
        model: Decoder,
        decode: Callable[[Sequence[int]], str],
        *,
        kv_budget_bytes: int = DEFAULT_KV_BUDGET,
        max_concurrent: int | None = None,
        prefill_tokens: int = PREFILL_TOKENS,
    ):
        super().__init__()
        self.model = model
        self.context = context_of(model.config)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.exact_logprobs = has_exact_kernels(model)
        self.plan: PoolPlan | None = None
        """What `reserve` was given."""
        self.on_draw: OnDraw | None = None
        """Shown the logits of every draw; set before the first step."""
        self._decode, self._budget, self._max_concurrent = decode, kv_budget_bytes, max_concurrent
        self._prefill_tokens = prefill_tokens
        self._packed: PackedWeights | None = None
        self._decoding: Decoding | None = None

    def reserve(self, plan: PoolPlan) -> None:
        """Keep so much memory from the next step on, for requests that come and go; nothing may be under way."""
        self.plan, self.context = plan, min(self.context, plan.table * PAGE)

    def prepare(self) -> None:
        """Take the memory that was reserved now, not with the first request."""
        with torch.inference_mode():
            self._decoding = self._decoding or self._begin()

    @property
    def running(self) -> Sequence[RunningSequence]:
        """Samples that are being decoded."""
        return self._decoding.batch if self._decoding is not None else ()

    @property
    def waiting(self) -> bool:
        """Whether a request, or a sample of one, has not started."""
        return bool(self._queue) or (self._decoding is not None and self._decoding.waiting)

    @property
    def pages_used(self) -> int:
        """Pages that hold keys and values."""
        return self._decoding.plan.pages - len(self._decoding.pool.free) if self._decoding is not None else 0

    @property
    def packed(self) -> PackedWeights:
        """The decoder's matrices, laid out for few rows."""
        if self._packed is None:
            self._packed = PackedWeights(self.model)
        return self._packed

    def _check(self, request: GenerationRequest) -> None:
        page = bytes_per_page(self.model.config, self.model.dtype)
        if pages_needed(request) > (self.plan.pages if self.plan is not None else self._budget // page):
            raise UsageError(
                f"the longest sequence needs {pages_needed(request) * page / 2**20:.1f} MiB for its keys and values, "
                f"but the KV budget is {self._budget / 2**20:.1f} MiB; raise rollout.kv_budget_gb or lower "
                "rollout.max_new_tokens"
            )

    @torch.inference_mode()
    def _step(self) -> bool:
        if self._decoding is None:
            if not self._queue:
                return False
            self._decoding = self._begin()
        decoding = self._decoding
        while self._queue and self._fits(decoding, self._queue[0][1]):
            decoding.submit(*self._queue.popleft())
        if decoding.step():
            return True
        if self.plan is None:
            self._decoding = None
            if not self._queue:
                self._packed = None
        return bool(self._queue)

    def _begin(self) -> Decoding:
        """A decoding with all that waits in it."""
        plan = self.plan
        if plan is None:
            config, dtype = self.model.config, self.model.dtype
            waiting = [request for _, request in self._queue]
            plan = plan_pool(waiting, config, dtype, self._budget, self._max_concurrent)
        decoding = Decoding(
            self.model,
            self.packed,
            self._decode,
            plan,
            prefill_tokens=self._prefill_tokens,
            on_end=self._ended,
            on_draw=self.on_draw,
        )
        while self._queue:
            decoding.submit(*self._queue.popleft())
        return decoding

    def _fits(self, decoding: Decoding, request: GenerationRequest) -> bool:
        """Whether a request may come in while others are decoded, by a plan that was not made for it."""
        plan = decoding.plan
        room = pages_needed(request) <= plan.pages and table_of(request) <= plan.table
        return plan is self.plan or (room and len(decoding.batch) < plan.sequences)

    def _ended(self, running: RunningSequence, reason: FinishReason) -> None:
        self._finish(running.key, running.index, completion_of(running, reason, self._decode, self.version))

    def _remove(self, key: int) -> None:
        if self._decoding is not None:
            self._decoding.cancel(key)

    def _drop(self) -> None:
        self._decoding = self._packed = None


def context_of(config: DecoderConfig) -> int:
    """Longest sequence: attention is full, so a model with a sliding window is used within it."""
    if config.sliding_window is None:
        return config.max_position_embeddings
    return min(config.max_position_embeddings, config.sliding_window)


def has_exact_kernels(model: Decoder) -> bool:
    """Whether every operation has a native kernel whose rows do not depend on each other."""
    return ops.usable(model.embedding) and model.config.head_dim % PAGE == 0


def _refuses(checkpoint: Checkpoint) -> str | None:
    return checkpoint.reason if checkpoint.config is None else None


def _build(checkpoint: Checkpoint, placement: Placement, _: bool) -> LanguageModel:
    return build_model(checkpoint, placement.dtype, placement.device)


def _open(opening: Opening) -> RolloutEngine:
    assert isinstance(opening.model, Decoder)
    assert opening.placement.kv_budget_bytes is not None
    return TorchEngine(
        opening.model,
        opening.checkpoint.tokenizer.decode,
        kv_budget_bytes=opening.placement.kv_budget_bytes,
        max_concurrent=opening.max_concurrent,
    )


ENGINE = Engine(name="torch", open=_open, build=_build, refuses=_refuses, keeps_mask=True)
