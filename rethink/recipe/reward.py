"""What a built-in reward is: one record, in a module under `rethink/rewards/built_in/` or in an installed package.

    rethink/rewards/built_in/NAME.py   REWARD = Reward(name=…, factory="rethink.rewards.built_in.NAME:make", …)

and, in the same file, the function `make`:

    def make(context: PartContext, *, option: int = 3) -> PartFunction

Its keyword-only parameters are the reward's options; their annotations are what is allowed. Nothing else knows the
name: `rewards()` finds the modules, and the entry points `rethink.rewards` of installed packages. Factories are named
by text, so that a recipe is read without what they import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rethink.recipe.registry import registered

ENTRY_POINTS = "rethink.rewards"
"""Group under which an installed package names its own: `mine = "my_package.mine:REWARD"`."""
TASK_REWARD = "accuracy"
"""The reward that has no record: what the task's own checker says."""

Place = Literal["here", "worker", "thread", "model"]
"""Where a reward is called. `here`: in the training process, for what is linear in the text and cannot hang; `worker`:
in a process of its own with limits on time and memory; `thread`: in a thread of the training process, for rewards that
wait for something and limit themselves (endpoints, a sandbox); `model`: in the training process, once a batch, for all
completions together, when they are there (a reward model)."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A built-in reward."""

    name: str
    """The value of `name` or `builtin` in `reward.parts`."""
    factory: str
    """`module:function`."""
    place: Place
    summary: str
    """What it scores, for the reader."""
    gold: bool = False
    """Whether it compares with the gold answer."""


@cache
def rewards() -> Mapping[str, Reward]:
    """Every built-in reward but `TASK_REWARD` by name: those of the package, then those of installed packages."""
    return registered("rethink.rewards.built_in", ENTRY_POINTS, Reward, "a reward")


def reward_names() -> list[str]:
    """Names that a recipe may use without `function`, in order."""
    return sorted([TASK_REWARD, *rewards()])
