"""Judging what could hang or blow up: in the reward workers, processes with limits on time and memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from threading import Lock
from typing import Any

import numpy as np

from rethink.rewards.outcome import TIMEOUT
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Rubric
from rethink.types import Completion, Problem, Prompt

_STARTING = Lock()
"""Threads that judge must not each start workers of their own."""
_NO_TOKENS = np.zeros(0, np.int32), np.zeros(0, np.float32)


def worker_score(part: str, params: Mapping[str, Any], problem: Problem, answer: str) -> float | None:
    """What a built-in reward part says of an answer that has been found already. Safe to call from any thread.

    Args:
        part: name of the part.
        params: its options.
        problem: with the gold, or what the part needs.
        answer: taken as the whole completion.

    Returns:
        The score; None where the part abstains (the gold cannot be read).

    Raises:
        TimeoutError: it took longer than a worker may.
        RuntimeError: it failed otherwise, with the named cause.
    """
    ids, logprobs = _NO_TOKENS
    completion = Completion(ids, answer, logprobs, logprobs, "stop")
    with _STARTING:
        rubric = _rubric(part, json.dumps(dict(params)))
        rubric.start()
    outcomes, _ = rubric.score(problem, Prompt("", ()), completion)
    outcome = outcomes[part]
    if outcome.failure is not None:
        raise (TimeoutError if outcome.failure.startswith(TIMEOUT) else RuntimeError)(outcome.failure)
    return outcome.score


@cache
def _rubric(part: str, params: str) -> Rubric:
    """One set of workers a part and its options, kept until the process ends."""
    one = {"name": part, "weight": 1.0, "builtin": part, "function": None, "params": json.loads(params)}
    spec = {"answer": "text", "judges": {}, "parts": [one]}
    return Rubric(spec, (build_part(spec, 0),), 1.0)
