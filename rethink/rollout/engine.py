"""What every rollout engine is: requests in, completions out, token-exact, while other requests are being generated.

    publish(weights, version) ─► submit(key, request) … ─► step, step, … ─► on_finish(key, sample, completion)
                                     └─ cancel(key) at any time between steps

`generate` is that for requests that are all there at once. One thread uses an engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rethink.errors import EngineFailure, UsageError
from rethink.types import Completion, GenerationRequest

OnFinish = Callable[[int, int, Completion], None]
"""(key of the request, sample index, completion), called as each completion ends, in the order in which they end."""


class RolloutEngine(ABC):
    """Samples completions from the current policy. An engine is its own `_step`, and `_remove` and `_drop` if need
    be.
    """

    model: Any = None
    """The policy, a `LanguageModel`, where the engine samples from a trainer's own weights."""
    context: int
    """Longest sequence (prompt and completion) it takes."""
    dtype: str = "float32"
    """It computes in: `bfloat16` or `float32`."""
    exact_logprobs: bool = False
    """Whether the log-probabilities it reports equal the trainer's to the bit, so that no second pass is needed."""
    version: int | None = None
    """Of the weights that it samples from; None: nobody has given them one."""
    overlaps: bool = False
    """Whether it samples elsewhere, so that the policy may be trained, and others published, meanwhile: requests may
    name each version that `retain` was given."""

    def __init__(self) -> None:
        self._under_way: dict[int, tuple[OnFinish, int]] = {}
        """By key: who is told, and how many samples have not ended."""
        self._queue: deque[tuple[int, GenerationRequest]] = deque()
        """Requests that `_step` has not taken yet."""

    def submit(self, key: int, request: GenerationRequest, on_finish: OnFinish) -> None:
        """Take a request into what is being generated; it starts in a later step.

        Args:
            key: names the request; none that is under way has it.
            request: with any number of seeds.
            on_finish: told of each completion, within `step`. What it raises ends all that is under way.

        Raises:
            UsageError: the prompt is empty, leaves no room for a token, or could never get the memory it needs.
            EngineFailure: the engine does not have the version that the request wants.
        """
        size, wanted = len(request.prompt_ids), request.params.max_new_tokens
        if not size:
            raise UsageError(f"request {key} has an empty prompt; give at least one token")
        if wanted < 1:
            raise UsageError(f"request {key} asks for {wanted} new tokens; ask for at least 1")
        if size + wanted > self.context:
            raise UsageError(
                f"request {key} needs {size} prompt tokens and up to {wanted} new ones, but the model's context is "
                f"{self.context}; shorten the prompt or lower max_new_tokens to {self.context - size} or less"
            )
        if request.version is not None and not self._has(request.version):
            has = "weights without a version" if self.version is None else f"version {self.version}"
            raise EngineFailure(f"version {request.version} of the weights was asked for, and the engine has {has}")
        assert key not in self._under_way, f"request {key} is under way already"
        if request.n:
            self._check(request)
            self._under_way[key] = on_finish, request.n
            self._queue.append((key, request))

    def step(self) -> bool:
        """Start what there is room for, and generate a little: a token for each running sample, say.

        Returns:
            False once nothing is left to do.

        Raises:
            EngineFailure: generation broke. Whatever is raised, all that was under way is dropped.
        """
        try:
            return self._step()
        except BaseException:
            self.abandon()
            raise

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    def cancel(self, key: int) -> None:
        """Drop a request, wherever it is; nothing more is told of it. One that is not under way is left alone."""
        if self._under_way.pop(key, None) is not None:
            self._queue = deque(entry for entry in self._queue if entry[0] != key)
            self._remove(key)

    def abandon(self) -> None:
        """Drop all that is under way."""
        self._under_way.clear()
        self._queue.clear()
        self._drop()

    def publish(self, weights: Any, version: int) -> None:
        """Sample from these weights from now on; what was derived from others (cached prefixes too) is dropped.

        Args:
            weights: the policy, a `LanguageModel`. An engine in its process reads them where they are, so that this
                costs nothing. None: those that the engine has.
            version: what requests and completions call them.

        Raises:
            EngineFailure: requests are under way, or the engine cannot take these weights.
        """
        if self._under_way:
            raise EngineFailure(f"{len(self._under_way)} requests are under way; publish weights between requests")
        if weights is not None and weights is not self.model:
            raise EngineFailure("this engine samples from the weights that it was opened with, and cannot take others")
        self._drop()
        self.version = version

    def retain(self, versions: Mapping[int, Mapping[str, Any]]) -> None:
        """Sample from these versions too, whatever is published.

        Args:
            versions: parameters by name, by version: all that requests may name beside the published one.
        """
        raise EngineFailure("this engine samples where the policy is trained, and has one version of the weights")

    @abstractmethod
    def _step(self) -> bool:
        """See `step`: takes from `_queue`; each completion that ends goes to `_finish`."""

    def _has(self, version: int) -> bool:
        """Whether requests may name a version."""
        return version == self.version

    def _check(self, request: GenerationRequest) -> None:  # noqa: B027
        """Refuse a request that could never get the memory it needs. Raises `UsageError`."""

    def _remove(self, key: int) -> None:  # noqa: B027
        """Drop a request that `_step` has taken."""

    def _drop(self) -> None:  # noqa: B027
        """Drop all that `_step` has taken (a part may be broken), and all that was derived from the weights."""

    def _finish(self, key: int, sample: int, completion: Completion) -> None:
        """Tell of a completion that ended."""
        on_finish, left = self._under_way.pop(key)
        if left > 1:
            self._under_way[key] = on_finish, left - 1
        on_finish(key, sample, completion)

    def metrics(self) -> dict[str, float]:
        """What it wants in the step's row, by names of the glossary; counts are of the time since the last call."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Let go of the model and its memory; the engine is not usable afterwards."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
    ) -> list[list[Completion]]:
        """Completions of each request, in the order of its seeds. The keys are the requests' indices.

        Raises:
            UsageError: see `submit`; nothing was generated.
            EngineFailure: see `submit` and `step`.
        """
        results: list[list[Completion | None]] = [[None] * request.n for request in requests]

        def finish(key: int, sample: int, completion: Completion) -> None:
            results[key][sample] = completion
            if on_finish is not None:
                on_finish(key, sample, completion)

        try:
            for key, request in enumerate(requests):
                self.submit(key, request, finish)
            while self.step():
                pass
        except BaseException:
            for key in range(len(requests)):
                self.cancel(key)
            raise
        done = [[completion for completion in samples if completion is not None] for samples in results]
        # A missing sample is a bug of the engine, never left out.
        assert [len(samples) for samples in done] == [request.n for request in requests], "a sample was never drawn"
        return done
