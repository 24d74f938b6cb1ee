"""What goes between the run and its reward workers: frames of JSON, never pickles, since completions are hostile.

A frame is four bytes of length and as many of JSON. Lone surrogates survive as JSON's escapes.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from rethink.types import Completion, Problem, Prompt, RewardOutcome

_LENGTH = struct.Struct("!I")
_NO_LOGPROBS = np.zeros(0, np.float32)


def encode(value: Any) -> bytes:
    """One frame."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    return _LENGTH.pack(len(text)) + text


class Frames:
    """Collects received bytes and gives out whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The frames that are whole now."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if len(self._buffer) < _LENGTH.size + length:
                break
            found.append(json.loads(self._buffer[_LENGTH.size : _LENGTH.size + length]))
            del self._buffer[: _LENGTH.size + length]
        return found


def receive(connection: socket.socket) -> Any:
    """The next frame of a blocking socket; None at its end."""
    head = _exactly(connection, _LENGTH.size)
    if head is None:
        return None
    text = _exactly(connection, _LENGTH.unpack(head)[0])
    return None if text is None else json.loads(text)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        data = connection.recv(min(size - len(parts), 1 << 20))
        if not data:
            return None
        parts += data
    return bytes(parts)


def item_to_plain(problem: Problem, prompt: Prompt, completion: Completion) -> dict[str, Any]:
    """One completion to score, as plain values; prompt ids and log-probabilities stay behind."""
    return {
        "problem": [problem.id, problem.task, problem.question, problem.answer, dict(problem.metadata)],
        "prompt": [prompt.text, prompt.prefill],
        "completion": [completion.text, completion.token_ids.tolist(), completion.finish_reason],
    }


def plain_to_item(plain: Mapping[str, Any]) -> tuple[Problem, Prompt, Completion]:
    """The inverse of `item_to_plain`, with empty prompt ids and log-probabilities."""
    text, ids, reason = plain["completion"]
    completion = Completion(np.asarray(ids, np.int32), text, _NO_LOGPROBS, _NO_LOGPROBS, reason)
    return Problem(*plain["problem"]), Prompt(plain["prompt"][0], (), plain["prompt"][1]), completion


def outcome_to_plain(outcome: RewardOutcome) -> list[Any]:
    """An outcome as plain values."""
    return [outcome.score, outcome.failure]
