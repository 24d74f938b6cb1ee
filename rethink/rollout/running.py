"""What engines do alike with running samples: draw tokens and record them, make completions.

Axes: B running samples, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rethink.errors import EngineFailure
from rethink.kernels.sampling import sample, uniforms
from rethink.kernels.trace import traced
from rethink.rollout.stopping import text_of
from rethink.types import Completion, FinishReason, OnToken, SamplingMask, SamplingParams


@dataclass(slots=True, kw_only=True)
class RunningSample:
    """A sample that is being drawn."""

    index: int
    """Which of its request's samples."""
    seed: int
    params: SamplingParams
    on_token: OnToken | None = None
    started: float = 0.0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    """Ids that each token was drawn from, where its parameters want the mask."""


@traced("sampling")
def draw_tokens(logits_BV: Tensor, samples: Sequence[RunningSample]) -> None:
    """Draw the next token of each sample, by its own parameters, record it and tell who wants to know.

    Raises:
        EngineFailure: the probabilities are not finite.
    """
    numbers = torch.from_numpy(uniforms([s.seed for s in samples], [len(s.tokens) for s in samples]))
    by_params: dict[SamplingParams, list[int]] = {}
    for i, running in enumerate(samples):
        by_params.setdefault(running.params, []).append(i)
    for params, members in by_params.items():
        whole = len(members) == len(samples)
        logits = logits_BV if whole else logits_BV[torch.tensor(members, device=logits_BV.device)]
        masks: list[np.ndarray] | None = [] if params.keep_mask else None
        uniform = numbers[members].to(logits.device)
        drawn = sample(logits, params.temperature, params.top_p, params.top_k, uniform, masks)
        if not bool(torch.isfinite(drawn[1]).all()):
            raise EngineFailure(
                "the model's probabilities are not finite (NaN or infinity), so nothing can be sampled: its "
                "weights are broken, or a product overflowed. In training, start anew with a lower "
                "optimizer.learning_rate or with model.dtype=float32; what was saved is untouched"
            )
        for i, token, logprob, sampled in zip(members, *(t.tolist() for t in drawn), strict=True):
            samples[i].tokens.append(token)
            samples[i].logprobs.append(logprob)
            samples[i].sampled_logprobs.append(sampled)
        for i, ids in zip(members, masks or (), strict=masks is not None):
            samples[i].masks.append(ids)
    for running in samples:
        if running.on_token is not None:
            running.on_token(running.index, running.tokens[-1])


def completion_of(
    running: RunningSample, reason: FinishReason, decode: Callable[[Sequence[int]], str], version: int | None
) -> Completion:
    """The completion of a sample that has ended; `version`: of the weights that drew it."""
    return Completion(
        token_ids=np.array(running.tokens, dtype=np.int32),
        text=text_of(running.tokens, reason, running.params, decode),
        logprobs=np.array(running.logprobs, dtype=np.float32),
        sampled_logprobs=np.array(running.sampled_logprobs, dtype=np.float32),
        finish_reason=reason,
        seconds=time.perf_counter() - running.started,
        version=version,
        mask=_mask_of(running.masks) if running.params.keep_mask else None,
    )


def _mask_of(masks: Sequence[np.ndarray]) -> SamplingMask:
    return SamplingMask(np.array([len(ids) for ids in masks], np.int32), np.concatenate(masks))
