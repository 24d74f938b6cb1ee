"""A public fake engine: given completions, delays and failures, for tests of recipes, rewards and trainers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rethink.errors import EngineFailure
from rethink.rollout.engine import RolloutEngine
from rethink.types import Completion, FinishReason, GenerationRequest

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Scripted:
    """One completion of a script."""

    text: str
    seconds: float = 0.0
    """How long it takes: really waited for, and reported."""
    logprob: float = -1.0
    """Log-probability of every token."""
    finish_reason: FinishReason = "stop"
    failure: str | None = None
    """Raise an `EngineFailure` with this text instead."""


Script = Callable[[GenerationRequest, int], Scripted | str]
"""(request, sample index) -> what comes; a text alone is `Scripted(text)`."""


class ScriptedEngine(RolloutEngine):
    """Plays a script through the engine's interface.

    Args:
        script: a function of request and sample index, or a list of completions that are given out in turn, again from
            the start when it is used up.
        encode: text to token ids, e.g. `tokenizer.encode`.
        end_token: appended to completions that end with `stop`; None: nothing is.
        context: longest sequence that the engine claims to take.
    """

    def __init__(
        self,
        script: Script | Sequence[Scripted | str],
        encode: Encode,
        *,
        end_token: int | None = None,
        context: int = 8192,
    ):
        if not callable(script) and not script:
            raise ValueError("a script needs at least one completion")
        super().__init__()
        self._script = script
        self._encode = encode
        self._end_token = end_token
        self.context = context
        self.requests: list[GenerationRequest] = []
        """Everything that was asked, in order."""
        self.published: list[int] = []
        """Every version that it was given, in order."""
        self._next = 0

    def _step(self) -> bool:
        """All of one request; they end in the order in which they came."""
        if not self._queue:
            return False
        key, request = self._queue.popleft()
        self.requests.append(request)
        for sample in range(request.n):
            self._finish(key, sample, self._complete(request, sample))
        return True

    def publish(self, weights: Any, version: int) -> None:
        """See `RolloutEngine.publish`; kept in `published`. A script does not depend on weights."""
        super().publish(None, version)
        self.published.append(version)

    def _complete(self, request: GenerationRequest, sample: int) -> Completion:
        line = self._line(request, sample)
        if line.failure is not None:
            raise EngineFailure(line.failure)
        if line.seconds:
            time.sleep(line.seconds)
        ids = list(self._encode(line.text))
        reason = line.finish_reason
        if reason == "stop" and self._end_token is not None:
            ids.append(self._end_token)
        if len(ids) > request.params.max_new_tokens:
            ids, reason = ids[: request.params.max_new_tokens], "length"
        if request.on_token is not None:
            for token in ids:
                request.on_token(sample, token)
        logprobs = np.full(len(ids), line.logprob, np.float32)
        return Completion(np.asarray(ids, np.int32), line.text, logprobs, logprobs, reason, line.seconds, self.version)

    def _line(self, request: GenerationRequest, sample: int) -> Scripted:
        if callable(self._script):
            line = self._script(request, sample)
        else:
            line = self._script[self._next % len(self._script)]
            self._next += 1
        return Scripted(line) if isinstance(line, str) else line
