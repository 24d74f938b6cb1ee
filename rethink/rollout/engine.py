"""What every rollout engine is: prompts in, completions out, token-exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from rethink.types import Completion, GenerationRequest

OnFinish = Callable[[int, int, Completion], None]
"""(request index, sample index, completion), called as each completion ends, in the order in which they end."""


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples completions from the current policy."""

    context: int
    """Longest sequence (prompt and completion) it takes."""
    exact_logprobs: bool
    """Whether the log-probabilities it reports equal the trainer's to the bit, so that no second pass is needed."""

    def generate(
        self, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
    ) -> list[list[Completion]]:
        """Completions of each request, in the order of its seeds.

        Raises:
            UsageError: a prompt is empty or leaves no room for a token (before anything is generated).
            EngineFailure: generation broke.
        """
        ...

    def weights_changed(self) -> None:
        """The policy's weights were updated: later samples must come from the new ones."""
        ...
