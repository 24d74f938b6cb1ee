"""The engine for models that only `transformers` computes: correct before fast.

    generate ─► waves of samples whose prompts are equally long ─► each: prefill, then one token for all until all end

Within a wave all sequences have the same length at every step, so nothing is ever padded: positions, windows, biases
and recurrent states are those of a sequence alone, whatever the architecture. Samples of one prompt share its prefill.
Sequences that end leave the wave. What a sample draws depends on its seed and position only, as in `TorchEngine`.

Axes: B running sequences, R distinct prompts of a wave, S prompt tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rethink.model.transformers_model import TransformersModel
from rethink.rollout.engine import OnFinish
from rethink.rollout.samples import RunningSample, all_ended, check_requests, completion_of, draw_tokens
from rethink.rollout.stopping import end_of
from rethink.types import Completion, GenerationRequest

DEFAULT_CONCURRENT = 16


@dataclass(slots=True, kw_only=True)
class _Sequence(RunningSample):
    """A running sample and what it continues."""

    request: int
    prompt_ids: tuple[int, ...]


class TransformersEngine:
    """`RolloutEngine` on a model of `transformers`.

    Args:
        model: the policy; its weights are read, never copied.
        decode: token ids to text.
        max_concurrent: most sequences decoded at once; None: 16.
    """

    def __init__(
        self,
        model: TransformersModel,
        decode: Callable[[Sequence[int]], str],
        *,
        max_concurrent: int | None = None,
    ):
        self.model = model
        self.context = model.context
        self.exact_logprobs = False
        self._decode = decode
        self._max_concurrent = max_concurrent or DEFAULT_CONCURRENT

    def weights_changed(self) -> None:
        """Nothing is derived from the weights."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
    ) -> list[list[Completion]]:
        """See `RolloutEngine.generate`."""
        check_requests(requests, self.context)
        results: list[list[Completion | None]] = [[None] * r.n for r in requests]

        def finish(sequence: _Sequence, completion: Completion) -> None:
            results[sequence.request][sequence.index] = completion
            if on_finish is not None:
                on_finish(sequence.request, sequence.index, completion)

        # Not inference mode: buffers that a module makes on the way (e.g. of angles) take part in training later.
        with torch.no_grad():
            for sequences in _waves(requests, self._max_concurrent):
                _Wave(self.model, self._decode, sequences, finish).run()
        return all_ended(results)


def _waves(requests: Sequence[GenerationRequest], limit: int) -> Iterator[list[_Sequence]]:
    """At most `limit` samples each, all with prompts of one length; in order where lengths allow."""
    by_length: dict[int, list[_Sequence]] = {}
    for i, request in enumerate(requests):
        samples = by_length.setdefault(len(request.prompt_ids), [])
        for j, seed in enumerate(request.seeds):
            samples.append(
                _Sequence(
                    request=i,
                    prompt_ids=request.prompt_ids,
                    index=j,
                    seed=seed,
                    params=request.params,
                    on_token=request.on_token,
                )
            )
    for samples in by_length.values():
        for first in range(0, len(samples), limit):
            yield samples[first : first + limit]


class _Wave:
    """Samples decoded together, from their prompts to their ends."""

    def __init__(
        self,
        model: TransformersModel,
        decode: Callable[[Sequence[int]], str],
        sequences: list[_Sequence],
        finish: Callable[[_Sequence, Completion], None],
    ):
        self.model, self.decode, self.batch, self.finish = model, decode, sequences, finish
        self.cache: Any = None
        """Of the running sequences; None: the module offers none (see `TransformersModel.logits`)."""

    def run(self) -> None:
        """Until every sample has ended."""
        now = time.perf_counter()
        for sequence in self.batch:
            sequence.started = now
        logits_BV = self._prefill()
        while True:
            draw_tokens(logits_BV, self.batch)
            self._retire()
            if not self.batch:
                return
            logits_BV = self._step()

    def _prefill(self) -> Tensor:
        """Logits [B, V] of the first tokens; each distinct prompt is computed once."""
        rows: dict[tuple[int, ...], int] = {}
        index_B = [rows.setdefault(s.prompt_ids, len(rows)) for s in self.batch]
        logits_R1V, self.cache = self.model.logits(self._tensor(list(rows)), 1, use_cache=True)
        self._select(index_B, len(rows))
        return logits_R1V[:, -1][self._tensor(index_B)]

    def _step(self) -> Tensor:
        """Logits [B, V] of the next token of every running sequence."""
        if self.cache is None:
            logits_B1V, _ = self.model.logits(self._tensor([[*s.prompt_ids, *s.tokens] for s in self.batch]), 1)
        else:
            newest = self._tensor([[s.tokens[-1]] for s in self.batch])
            logits_B1V, self.cache = self.model.logits(newest, 1, cache=self.cache, use_cache=True)
        return logits_B1V[:, -1]

    def _select(self, index: list[int], size: int) -> None:
        """Make the cache's rows those of the index (which may repeat them), unless they are already."""
        if self.cache is not None and index != list(range(size)):
            self.cache.reorder_cache(self._tensor(index))

    def _retire(self) -> None:
        """Take ended sequences out of the wave."""
        running: list[int] = []
        for i, sequence in enumerate(self.batch):
            reason = end_of(sequence.tokens, sequence.params, self.decode)
            if reason is None:
                running.append(i)
            else:
                self.finish(sequence, completion_of(sequence, reason, self.decode))
        if running:
            self._select(running, len(self.batch))
        self.batch = [self.batch[i] for i in running]

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)
