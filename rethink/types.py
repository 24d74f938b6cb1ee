"""The values that flow through a run, from problem to rollout. Plain frozen data, no behaviour.

Problem ─► Prompt ─► Completion (engine) ─► RewardOutcome per part ─► Rollout (with its advantage)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FinishReason = Literal["stop", "length"]
"""Why a completion ended: `stop` (end-of-turn token or stop string) or `length` (the token limit: truncated)."""

UNTRAINED = "untrained"
"""Key of an assistant's message, in a conversation to train on, that is context alone; its value says why."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with a checkable answer."""

    id: str
    """Stable and unique within a run, e.g. `chain_sum/train/17`."""
    task: str
    """Name of the task source that made it; its checker scores the answer."""
    question: str
    answer: str | None
    """The gold answer; None where only the task's checker knows."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the task's checker needs; must survive JSON."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem rendered for the model, once: these ids are what the engine continues and the trainer sees."""

    text: str
    token_ids: tuple[int, ...]
    prefill: str = ""
    """The part of `text` that already belongs to the assistant's turn (e.g. `<think>`); parsers prepend it."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 cut nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 256
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the completion; the token itself is kept as the completion's last."""
    keep_mask: bool = False
    """Whether the completion holds its sampling mask."""

    @property
    def truncated(self) -> bool:
        """Whether top-p or top-k cut the distribution that is sampled from."""
        return self.temperature > 0 and (self.top_p < 1.0 or self.top_k > 0)


OnToken = Callable[[int, int], None]
"""(sample index, token id), called as each token is drawn. What it raises ends the whole generation."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to be continued once per seed. The seeds decide the samples: same seed, same draw."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    params: SamplingParams
    on_token: OnToken | None = field(default=None, compare=False, repr=False)
    """For answers that are shown while they are drawn. Engines that draw whole completions at once do not call it."""
    version: int | None = None
    """Version of the policy's weights that must answer; None: those that the engine has."""

    @property
    def n(self) -> int:
        """Number of completions wanted."""
        return len(self.seeds)


@dataclass(frozen=True, slots=True, eq=False)
class SamplingMask:
    """Which tokens top-p and top-k left to draw from, at each token of a completion."""

    counts: NDArray[np.int32]
    """[T] how many."""
    ids: NDArray[np.int32]
    """Their ids, rising, token after token."""


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """What the policy generated for a prompt: ids as sampled, never re-tokenised."""

    token_ids: NDArray[np.int32]
    """[T]; includes the stop token where one was sampled."""
    text: str
    """Decoded text without the end-of-turn token."""
    logprobs: NDArray[np.float32]
    """[T] log-probability at the sampling temperature, *before* top-p / top-k: what training uses. Greedy: at T = 1."""
    sampled_logprobs: NDArray[np.float32]
    """[T] log-probability under the distribution really sampled from (after top-p / top-k). Greedy: zeros."""
    finish_reason: FinishReason
    seconds: float = 0.0
    """Wall time from the start of its decoding to its end (clock: informative only)."""
    version: int | None = None
    """Version of the policy's weights that sampled it; None where nobody counts versions."""
    mask: SamplingMask | None = None
    """Where it was asked for."""

    @property
    def behaviour_logprobs(self) -> NDArray[np.float32]:
        """[T] what training compares with: of the distribution that was cut where the mask is there, else before."""
        return self.logprobs if self.mask is None else self.sampled_logprobs


@dataclass(frozen=True, slots=True)
class RewardOutcome:
    """What one reward part said of one rollout: a score, an abstention (score None, no failure), or a failure.

    A part that does not apply (to this source, or at this step) is an abstention with `applied` False.
    """

    score: float | None
    failure: str | None = None
    """`timeout`, `exception: …`, `not finite`, …; None when the checker worked."""
    applied: bool = True


RIGHT = 1.0 - 1e-9


def is_right(score: float | None) -> bool:
    """Whether a score means that the answer is right; partial credit and an abstention do not."""
    return score is not None and score >= RIGHT


@dataclass(frozen=True, slots=True)
class Turn:
    """The part of a completion that the policy sampled in one go: `token_ids[start:stop]`."""

    start: int
    stop: int
    version: int | None = None
    """Version of the policy's weights that sampled it."""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """A completion with everything that training and the reader of the run need. May be sent to another process."""

    problem: Problem
    prompt: Prompt
    completion: Completion
    """All that follows the prompt, of every turn and between them."""
    outcomes: Mapping[str, RewardOutcome]
    """By name of the reward part."""
    reward: float | None
    """Weighted sum of the parts; None when every part that counts abstained or failed."""
    advantage: float | NDArray[np.float64] = 0.0
    """Of every token, or one each [T]; NaN: a critic has not judged it yet."""
    turns: tuple[Turn, ...] = ()
    """In order. What stands between them was given to the policy. Empty: one turn, all of the completion."""

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[T] Whether the policy sampled the token, so that it may be trained on."""
        size = len(self.completion.token_ids)
        mask = np.full(size, not self.turns)
        for turn in self.turns:
            mask[turn.start : turn.stop] = True
        return mask
