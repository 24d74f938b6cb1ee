"""What reward tests share: completions, and workers with a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.rewards.reward_pool import RewardPool
from rethink.types import Completion, Problem, Prompt

PROBLEM = Problem("p", "t", "What is it?", "5")
PROMPT = Prompt("", ())


def completion(text: str) -> Completion:
    nothing = np.zeros(1, np.float32)
    return Completion(np.zeros(1, np.int32), text, nothing, nothing, "stop")


def item(text: str, problem: Problem = PROBLEM) -> tuple[Problem, Prompt, Completion]:
    return problem, PROMPT, completion(text)


@pytest.fixture
def pool_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardPool]]:
    """`pool_of(body, seconds=…)`: workers for a function `score(problem, text)` with that body."""
    made: list[RewardPool] = []

    def make(body: str, head: str = "", name: str = "user_rewards", **limits: Any) -> RewardPool:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (tmp_path / f"{name}.py").write_text(f"{head}\ndef score(problem, text):\n{lines}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        part = {"name": "mine", "weight": 1, "builtin": None, "function": f"{name}:score", "params": {}}
        made.append(RewardPool({"answer": "auto", "judges": {}, "parts": [part]}, [0], **limits))
        return made[-1]

    yield make
    for pool in made:
        pool.close()
