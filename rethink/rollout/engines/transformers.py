"""The engine for models that only `transformers` computes: correct before fast.

    submit ─► samples by the length of their prompts ─► waves of equal length ─► each: prefill, then one token a step

Within a wave all sequences have the same length at every step, so nothing is ever padded: positions, windows, biases
and recurrent states are those of a sequence alone, whatever the architecture. Samples of one prompt share its prefill.
Sequences that end leave the wave. What a sample draws depends on its seed and position only, as in `TorchEngine`.

Axes: B running sequences, R distinct prompts of a wave, S prompt tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rethink.machine.placement import Placement
from rethink.model.build import build_model
from rethink.model.language_model import LanguageModel
from rethink.model.loading import Checkpoint
from rethink.model.transformers_model import TransformersModel
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Opening
from rethink.rollout.running import RunningSample, completion_of, draw_tokens
from rethink.rollout.stopping import end_of
from rethink.types import GenerationRequest

DEFAULT_CONCURRENT = 16


@dataclass(slots=True, kw_only=True)
class _Sequence(RunningSample):
    """A running sample and what it continues."""

    key: int
    """Of its request."""
    prompt_ids: tuple[int, ...]


class TransformersEngine(RolloutEngine):
    """`RolloutEngine` on a model of `transformers`.

    Args:
        model: the policy; its weights are read, never copied.
        decode: token ids to text.
        max_concurrent: most sequences decoded at once; None: 16.
    """

    model: TransformersModel

    def __init__(
        self,
        model: TransformersModel,
        decode: Callable[[Sequence[int]], str],
        *,
        max_concurrent: int | None = None,
    ):
        super().__init__()
        self.model = model
        self.context = model.context
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._decode = decode
        self._max_concurrent = max_concurrent or DEFAULT_CONCURRENT
        self._waiting: dict[int, deque[_Sequence]] = {}
        """Samples that have not started, by the length of their prompts."""
        self._wave: list[_Sequence] = []
        self._cache: Any = None
        """Of the wave; None: the module offers none (see `TransformersModel.logits`)."""

    # Not inference mode: buffers that a module makes on the way (e.g. of angles) take part in training later.
    @torch.no_grad()
    def _step(self) -> bool:
        while self._queue:
            self._wait(*self._queue.popleft())
        if self._wave:
            logits_BV = self._next()
        elif self._waiting:
            self._wave, now = self._next_wave(), time.perf_counter()
            for sequence in self._wave:
                sequence.started = now
            logits_BV = self._prefill()
        else:
            return False
        draw_tokens(logits_BV, self._wave)
        self._retire()
        return True

    def _wait(self, key: int, request: GenerationRequest) -> None:
        samples = self._waiting.setdefault(len(request.prompt_ids), deque())
        for index, seed in enumerate(request.seeds):
            samples.append(
                _Sequence(
                    key=key,
                    prompt_ids=request.prompt_ids,
                    index=index,
                    seed=seed,
                    params=request.params,
                    on_token=request.on_token,
                )
            )

    def _next_wave(self) -> list[_Sequence]:
        """At most so many samples as run at once, all with prompts of one length; in order where lengths allow."""
        length, samples = next(iter(self._waiting.items()))
        wave = [samples.popleft() for _ in range(min(self._max_concurrent, len(samples)))]
        if not samples:
            del self._waiting[length]
        return wave

    def _prefill(self) -> Tensor:
        """Logits [B, V] of the first tokens; each distinct prompt is computed once."""
        rows: dict[tuple[int, ...], int] = {}
        index_B = [rows.setdefault(s.prompt_ids, len(rows)) for s in self._wave]
        logits_R1V, self._cache = self.model.logits(self._tensor(list(rows)), 1, use_cache=True)
        self._select(index_B, len(rows))
        return logits_R1V[:, -1][self._tensor(index_B)]

    def _next(self) -> Tensor:
        """Logits [B, V] of the next token of every running sequence."""
        if self._cache is None:
            logits_B1V, _ = self.model.logits(self._tensor([[*s.prompt_ids, *s.tokens] for s in self._wave]), 1)
        else:
            newest = self._tensor([[s.tokens[-1]] for s in self._wave])
            logits_B1V, self._cache = self.model.logits(newest, 1, cache=self._cache, use_cache=True)
        return logits_B1V[:, -1]

    def _select(self, index: list[int], size: int) -> None:
        """Make the cache's rows those of the index (which may repeat them), unless they are already."""
        if self._cache is not None and index != list(range(size)):
            self._cache.reorder_cache(self._tensor(index))

    def _retire(self) -> None:
        """Take ended sequences out of the wave."""
        ended = [(s, end_of(s.tokens, s.params, self._decode)) for s in self._wave]
        self._keep([i for i, (_, reason) in enumerate(ended) if reason is None])
        for sequence, reason in ended:
            if reason is not None:
                done = completion_of(sequence, reason, self._decode, self.version)
                self._finish(sequence.key, sequence.index, done)

    def _keep(self, rows: list[int]) -> None:
        """Leave only these sequences in the wave."""
        if rows:
            self._select(rows, len(self._wave))
        else:
            self._cache = None
        self._wave = [self._wave[i] for i in rows]

    def _remove(self, key: int) -> None:
        for length, samples in list(self._waiting.items()):
            self._waiting[length] = deque(s for s in samples if s.key != key)
            if not self._waiting[length]:
                del self._waiting[length]
        self._keep([i for i, s in enumerate(self._wave) if s.key != key])

    def _drop(self) -> None:
        self._waiting.clear()
        self._wave, self._cache = [], None

    def _tensor(self, values: Sequence[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.model.device)


def _build(checkpoint: Checkpoint, placement: Placement, trust_remote_code: bool) -> LanguageModel:
    return build_model(
        checkpoint, placement.dtype, placement.device, trust_remote_code=trust_remote_code, force_transformers=True
    )


def _open(opening: Opening) -> RolloutEngine:
    assert isinstance(opening.model, TransformersModel)
    decode = opening.checkpoint.tokenizer.decode
    return TransformersEngine(opening.model, decode, max_concurrent=opening.max_concurrent)


ENGINE = Engine(
    name="transformers",
    open=_open,
    build=_build,
    caution="correct, but slower than the decoder of Rethink",
    keeps_mask=True,
)
