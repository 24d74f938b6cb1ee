"""What each kind of stage is run by, and the version of its meaning."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Runner = Callable[..., dict[str, Any]]
"""`(recipe, out: Path, *, resume: bool, progress: Progress) -> summary`, whose `finished` is False after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class StageKind:
    """How stages of a kind are run."""

    version: int
    """Part of a stage's hash. Raised by hand when the same recipe would mean other results, so that stages of before
    are not taken for those of now; not for each change of the code."""
    run: str
    """The runner, `module:function`; imported when a stage of the kind is run."""


STAGE_KINDS: dict[str, StageKind] = {
    "grpo": StageKind(1, "rethink.kinds.grpo.run:train"),
    "sft": StageKind(1, "rethink.kinds.sft.run:train_sft"),
    "samples": StageKind(1, "rethink.kinds.samples.run:curate"),
    "reward-model": StageKind(1, "rethink.kinds.reward_model.run:train_reward_model"),
    "eval": StageKind(1, "rethink.kinds.eval.run:run_eval"),
}


def runner(kind: str) -> Runner:
    """The function that runs a stage of a kind."""
    module, _, attribute = STAGE_KINDS[kind].run.partition(":")
    found: Runner = getattr(importlib.import_module(module), attribute)
    return found
