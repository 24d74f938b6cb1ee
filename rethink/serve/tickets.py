"""What passes between the requests of HTTP and the engine's thread.

A request of HTTP has one mailbox and a ticket for each of its prompts. The thread fills mailboxes through the event
loop; only the loop empties them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rethink.serve.scoring import TokenLogprob
from rethink.types import Completion, GenerationRequest

SCORED = -1
"""`Event.sample` of the log-probabilities of a text."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """News of one sample, or of a text's log-probabilities."""

    number: int
    """Of the ticket within its request of HTTP."""
    sample: int
    token_ids: Sequence[int] = ()
    """Tokens that were not told of before."""
    logprobs: Sequence[TokenLogprob] = ()
    """Of these tokens, where the ticket wants them; of a text, from its second token on."""
    completion: Completion | None = None
    """Where this was the sample's end."""
    failure: Exception | None = None
    """The engine broke; nothing more comes."""

    @property
    def last(self) -> bool:
        """Whether nothing more comes of this sample or text."""
        return self.completion is not None or self.sample == SCORED


class Mailbox:
    """Events of one request of HTTP. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._there = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add an event and wake the reader."""
        self._events.append(event)
        self._there.set()

    async def take(self) -> list[Event]:
        """All events that are there, at least one: a slow reader gets many at once."""
        await self._there.wait()
        self._there.clear()
        events, self._events = self._events, []
        return events


@dataclass(slots=True, eq=False)
class Ticket:
    """One prompt to be continued, or one text to be scored."""

    number: int
    mailbox: Mailbox
    request: GenerationRequest | None = None
    text_ids: Sequence[int] = ()
    """The text to be scored, where there is no request."""
    top: int | None = None
    """Alternatives wanted with each log-probability; None: no log-probabilities."""
    streams: bool = False
    """Whether tokens are told of before a sample's end."""
    key: int = -1
    """Given by the engine's thread."""
    seen: list[int] = field(default_factory=list)
    """By sample: tokens told of."""
    logprobs: list[list[TokenLogprob]] = field(default_factory=list)
    """By sample: not told of yet."""
    left: int = 0
    """Samples that have not ended, or 1 while the text is not scored."""

    def __post_init__(self) -> None:
        self.left = self.places
        if self.request is not None:
            self.seen = [0] * self.request.n
            self.logprobs = [[] for _ in range(self.request.n)]

    @property
    def places(self) -> int:
        """How much it counts towards the server's limit."""
        return 1 if self.request is None else self.request.n

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt or text."""
        return len(self.text_ids if self.request is None else self.request.prompt_ids)

    def event(self, sample: int, tokens: Sequence[int], completion: Completion | None = None) -> Event:
        """What is new of a sample that has these tokens by now."""
        new = tokens[self.seen[sample] :]
        self.seen[sample] = len(tokens)
        logprobs, self.logprobs[sample] = self.logprobs[sample], []
        return Event(self.number, sample, new, logprobs, completion)
