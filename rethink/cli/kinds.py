"""Who runs a recipe of each kind, plans it (`--dry-run`) and shows what came of it: one line a kind.

Functions are named and imported when they are wanted, so that `rethink --help` stays quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rethink.errors import UsageError
from rethink.terminal import say


@dataclass(frozen=True, slots=True)
class Verbs:
    """The functions of a kind, each as `module:function`."""

    run: str
    """`(recipe, out: Path, *, resume: bool, progress: Progress) -> summary`; `summary["finished"]` is False after
    Ctrl-C."""
    dry_run: str | None = None
    """`(recipe, *, as_json: bool) -> exit code`; None: the kind has no plan to show."""
    show: str = "rethink.cli.kinds:show_places"
    """`(summary, out: Path) -> None`, after a run that finished."""


KINDS: dict[str, Verbs] = {
    "grpo": Verbs("rethink.kinds.grpo.run:train", "rethink.cli.train:dry_run", "rethink.cli.train:show"),
    "sft": Verbs("rethink.kinds.sft.run:train_sft", "rethink.kinds.sft.show:dry_run", "rethink.kinds.sft.show:show"),
    "samples": Verbs(
        "rethink.kinds.samples.run:curate", "rethink.kinds.samples.show:dry_run", "rethink.kinds.samples.show:show"
    ),
    "reward-model": Verbs(
        "rethink.kinds.reward_model.run:train_reward_model",
        "rethink.kinds.reward_model.show:dry_run",
        "rethink.kinds.reward_model.show:show",
    ),
    "eval": Verbs("rethink.kinds.eval.run:run_eval", None, "rethink.cli.pipeline:show_evaluation"),
    "pipeline": Verbs(
        "rethink.kinds.pipeline.run:run_pipeline", "rethink.cli.pipeline:dry_run", "rethink.cli.pipeline:show"
    ),
    "distill": Verbs(
        "rethink.kinds.pipeline.run:run_pipeline", "rethink.cli.pipeline:dry_run", "rethink.cli.pipeline:show"
    ),
}


def function(name: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def dry_run_of(kind: str) -> Callable[..., int]:
    """What `--dry-run` calls.

    Raises:
        UsageError: recipes of this kind cannot be planned.
    """
    name = KINDS[kind].dry_run
    if name is None:
        planned = " or ".join(f"`{known}`" for known, verbs in KINDS.items() if verbs.dry_run)
        raise UsageError(
            f"--dry-run takes recipes of the kind {planned}, and this one is of the kind `{kind}`. Run it without "
            "--dry-run."
        )
    return function(name)


def show_places(summary: dict[str, Any], out: Any) -> None:
    """Where the things lie that a run of any kind leaves."""
    if "wall_s" in summary:
        say(f"\nwall time {summary['wall_s'] / 60:.1f} min\n")
    say(f"folder  {out}")
    for name, path in (("report", out / "report.html"), ("model", out / "model")):
        if path.exists():
            say(f"{name:<7} {path}")
