"""What the driver and its rollout workers say to each other: plain data, safe to lose, double, delay or reorder.

    driver ── Order(number, weights, tasks, keep, receipts) ──► worker
    driver ◄── Report(number, version, held, done, …) ───────── worker

Each side repeats its whole state until the other has confirmed it. So no message matters by itself: a lost one is
covered by the next, a second copy changes nothing, and an old one is known by its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rethink.types import Completion, GenerationRequest

Key = tuple[int, int]
"""(task, sample): one completion that is wanted."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where the weights of a version are."""

    version: int
    source: Any
    """What the worker loads: a folder, or an object of the transport's store."""
    checksum: str
    """SHA-256 (hex) of what is loaded."""


@dataclass(frozen=True, slots=True)
class Task:
    """Samples of a request that one worker draws."""

    id: int
    request: GenerationRequest
    """Its `version` says which weights must draw them."""
    samples: tuple[int, ...]
    """Indices into the request's seeds."""

    @property
    def part(self) -> tuple[int, ...]:
        """Names what one worker draws of a task, whose parts may be given at different times."""
        return (self.id, *self.samples)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of its samples."""
        return tuple((self.id, sample) for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do: all of it, not what changed."""

    session: str
    """Of the driver: one that is started again has another, and a worker begins anew for it."""
    number: int
    """Grows with each order to a worker; a worker ignores an order that is not newer than the last."""
    weights: tuple[Weights, ...]
    """Every version that a task of this worker may need."""
    tasks: tuple[Task, ...]
    """Tasks that the worker has not yet reported."""
    keep: frozenset[Key]
    """All samples the worker is to hold. What it holds besides is cancelled."""
    receipts: frozenset[Key]
    """Results that have arrived: the worker forgets them."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished sample."""

    key: Key
    completion: Completion
    """Its `version` says which weights drew it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker has and has done: all of it, not what changed."""

    session: str
    number: int
    """Of the newest order that it has carried out."""
    version: int | None
    """Of the weights it has loaded."""
    running: frozenset[Key]
    waiting: frozenset[Key]
    """Samples that have not started: another worker may still take them."""
    done: tuple[Done, ...]
    """Results without a receipt."""
    tokens: int
    """Drawn since the worker started."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """By task: why it cannot be drawn at all (a prompt that is too long, say)."""

    @property
    def held(self) -> frozenset[Key]:
        """Samples that are neither done nor lost."""
        return self.running | self.waiting


@dataclass(frozen=True, slots=True)
class Hello:
    """What a worker says when it starts."""

    name: str
    """Unique to this start of it: a worker that is started again has another."""
    facts: Mapping[str, str]
    """What decides the bits of a completion: versions, processor, kernels."""
