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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rethink.errors import UsageError
from rethink.kernels.sampling import sample, uniforms
from rethink.model.transformers_model import TransformersModel
from rethink.rollout.engine import OnFinish
from rethink.rollout.stopping import end_of, text_of
from rethink.types import Completion, FinishReason, GenerationRequest, SamplingParams

DEFAULT_CONCURRENT = 16


@dataclass(slots=True)
class _Sequence:
    """A running sample."""

    request: int
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int
    params: SamplingParams
    started: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)


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
        self._decode = decode
        self._max_concurrent = max_concurrent or DEFAULT_CONCURRENT

    def weights_changed(self) -> None:
        """Nothing is derived from the weights."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
    ) -> list[list[Completion]]:
        """See `RolloutEngine.generate`."""
        _check(requests, self.context)
        results: list[list[Completion | None]] = [[None] * r.n for r in requests]

        def finish(sequence: _Sequence, completion: Completion) -> None:
            results[sequence.request][sequence.sample] = completion
            if on_finish is not None:
                on_finish(sequence.request, sequence.sample, completion)

        # Not inference mode: buffers that a module makes on the way (e.g. of angles) take part in training later.
        with torch.no_grad():
            for sequences in _waves(requests, self._max_concurrent):
                _Wave(self.model, self._decode, sequences, finish).run()
        return [[c for c in samples if c is not None] for samples in results]


def _check(requests: Sequence[GenerationRequest], context: int) -> None:
    for i, request in enumerate(requests):
        size = len(request.prompt_ids)
        if not size:
            raise UsageError(f"request {i} has an empty prompt; give at least one token")
        if request.params.max_new_tokens < 1:
            raise UsageError(f"request {i} asks for {request.params.max_new_tokens} new tokens; ask for at least 1")
        if size + request.params.max_new_tokens > context:
            raise UsageError(
                f"request {i} needs {size} prompt tokens and up to {request.params.max_new_tokens} new ones, but the "
                f"model's context is {context}; shorten the prompt or lower max_new_tokens to {context - size} or less"
            )


def _waves(requests: Sequence[GenerationRequest], limit: int) -> Iterator[list[_Sequence]]:
    """At most `limit` samples each, all with prompts of one length; in order where lengths allow."""
    by_length: dict[int, list[_Sequence]] = {}
    for i, request in enumerate(requests):
        samples = by_length.setdefault(len(request.prompt_ids), [])
        for j, seed in enumerate(request.seeds):
            samples.append(_Sequence(i, j, request.prompt_ids, seed, request.params))
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
            self._draw(logits_BV)
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

    def _draw(self, logits_BV: Tensor) -> None:
        """Sample one token for each sequence and record it."""
        numbers = torch.from_numpy(uniforms([s.seed for s in self.batch], [len(s.tokens) for s in self.batch]))
        by_params: dict[SamplingParams, list[int]] = {}
        for i, sequence in enumerate(self.batch):
            by_params.setdefault(sequence.params, []).append(i)
        for params, members in by_params.items():
            logits = logits_BV[self._tensor(members)]
            drawn = sample(logits, params.temperature, params.top_p, params.top_k, numbers[members].to(logits.device))
            for i, token, logprob, sampled in zip(members, *(t.tolist() for t in drawn), strict=True):
                self.batch[i].tokens.append(token)
                self.batch[i].logprobs.append(logprob)
                self.batch[i].sampled_logprobs.append(sampled)

    def _retire(self) -> None:
        """Take ended sequences out of the wave."""
        running: list[int] = []
        for i, sequence in enumerate(self.batch):
            reason = end_of(sequence.tokens, sequence.params, self.decode)
            if reason is None:
                running.append(i)
            else:
                self.finish(sequence, _completion(sequence, reason, self.decode))
        if running:
            self._select(running, len(self.batch))
        self.batch = [self.batch[i] for i in running]

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


def _completion(sequence: _Sequence, reason: FinishReason, decode: Callable[[Sequence[int]], str]) -> Completion:
    return Completion(
        token_ids=np.array(sequence.tokens, dtype=np.int32),
        text=text_of(sequence.tokens, reason, sequence.params, decode),
        logprobs=np.array(sequence.logprobs, dtype=np.float32),
        sampled_logprobs=np.array(sequence.sampled_logprobs, dtype=np.float32),
        finish_reason=reason,
        seconds=time.perf_counter() - sequence.started,
    )
