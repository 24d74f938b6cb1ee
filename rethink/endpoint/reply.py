"""Replies of an endpoint, and the error for a missing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rethink.model.text.thoughts import with_thought

_EVERYBODYS = (401, 403, 404, 405, 407, 429)
"""HTTP statuses (4xx) that do not depend on the request: a wrong key, address, method or proxy, or a rate limit."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion."""

    text: str
    thought: str | None = None
    """The thought, if the server sends it in a separate field."""
    cut: bool = False
    """Whether the token limit ended it."""
    tokens: int | None = None
    """Tokens of the reply, as counted by the endpoint; None if it does not count, or if the reply was stored."""

    @property
    def whole(self) -> str:
        """The turn with its thought."""
        return with_thought(self.thought, self.text, self.cut)


class NoReply(Exception):
    """There is no usable reply.

    Args:
        cause: `timeout`, `invalid` (a reply that cannot be used) or `exception`.
        detail: one line for the user, without the key.
        status: HTTP status of a refusal; None for failures that were retried.
    """

    def __init__(self, cause: Literal["timeout", "invalid", "exception"], detail: str, status: int | None = None):
        super().__init__(cause, detail, status)
        self.cause, self.detail, self.status = cause, detail, status

    @property
    def only_this(self) -> bool:
        """Whether only this request fails: it was refused because of its content, or its reply is unusable."""
        refused = self.status is not None and 400 <= self.status < 500 and self.status not in _EVERYBODYS
        return refused or self.cause == "invalid"
