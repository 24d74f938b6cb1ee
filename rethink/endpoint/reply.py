"""What an endpoint replies, and why there is no reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rethink.model.thoughts import with_thought

_EVERYBODYS = (401, 403, 404, 405, 407, 429)
"""HTTP statuses of the 4xx that would meet any request: a wrong key, address, method or proxy, a limit."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    text: str
    thought: str | None = None
    """The thought, where the server sends it in a field of its own."""
    cut: bool = False
    """Whether the limit of tokens ended it."""
    tokens: int | None = None
    """Tokens of the reply, as the endpoint counts them; None where it does not, or where the reply was recorded."""

    @property
    def whole(self) -> str:
        """The turn with its thought."""
        return with_thought(self.thought, self.text, self.cut)


class NoReply(Exception):
    """There is no usable reply.

    Args:
        cause: `timeout`, `invalid` (a reply that cannot be used) or `exception`.
        detail: one line for the reader, without the key.
        status: HTTP status with which the endpoint refused; None where it did not, or where another try could help.
    """

    def __init__(self, cause: Literal["timeout", "invalid", "exception"], detail: str, status: int | None = None):
        super().__init__(cause, detail, status)
        self.cause, self.detail, self.status = cause, detail, status

    @property
    def only_this(self) -> bool:
        """Whether it is this request's alone: refused because of its content, or replied to with what is of no use."""
        refused = self.status is not None and 400 <= self.status < 500 and self.status not in _EVERYBODYS
        return refused or self.cause == "invalid"
