"""The embedded engine: continuous batching over paged, shared prefixes, on any device that torch has.

    generate ─► plan the pages ─► submit every request to a `Decoding` ─► step until nothing is left

What a sample draws depends on its seed and position only. With native kernels neither does any logit depend on what
shares the batch, and log-probabilities are bit for bit those of the trainer; else they may differ in the last bits, see
docs/determinism.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rethink.kernels.native import ops
from rethink.kernels.paged import PAGE
from rethink.model.config import DecoderConfig
from rethink.model.decoder import Decoder
from rethink.rollout.decoding import PREFILL_TOKENS, Decoding
from rethink.rollout.engine import OnFinish
from rethink.rollout.forward import PackedWeights
from rethink.rollout.pages import plan_pool
from rethink.rollout.samples import all_ended, check_requests
from rethink.types import Completion, GenerationRequest

DEFAULT_KV_BUDGET = 2 << 30


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
        self.context = context_of(model.config)
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
        results: list[list[Completion | None]] = [[None] * r.n for r in requests]
        if not any(r.n for r in requests):
            return all_ended(results)

        def finish(request: int, sample: int, completion: Completion) -> None:
            results[request][sample] = completion
            if on_finish is not None:
                on_finish(request, sample, completion)

        # Pages and packed weights are made anew each time, which takes a few hundredths of what a generation takes:
        # between generations a trainer needs the memory.
        with torch.inference_mode():
            config, dtype = self.model.config, self.model.dtype
            plan = plan_pool(requests, config, dtype, self._budget, self._max_concurrent)
            packed = PackedWeights(self.model)
            decoding = Decoding(
                self.model, packed, self._decode, plan, prefill_tokens=self._prefill_tokens, on_finish=finish
            )
            for i, request in enumerate(requests):
                if request.n:
                    decoding.submit(i, request)
            while decoding.step():
                pass
        return all_ended(results)


def context_of(config: DecoderConfig) -> int:
    """Longest sequence: attention is full, so a model with a sliding window is used within it."""
    if config.sliding_window is None:
        return config.max_position_embeddings
    return min(config.max_position_embeddings, config.sliding_window)


def has_exact_kernels(model: Decoder) -> bool:
    """Whether every operation has a native kernel whose rows do not depend on each other."""
    return ops.has_products(model.embedding) and model.config.head_dim % PAGE == 0
