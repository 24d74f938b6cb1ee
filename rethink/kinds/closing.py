"""What the closing lines of every kind of run share."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.terminal import say


def program() -> str:
    """How the user called us, so that commands in messages can be pasted: `rethink` where that finds us."""
    called = Path(sys.argv[0])
    if called.parts[-2:] == ("rethink", "__main__.py"):
        return "python -m rethink"
    found = shutil.which("rethink")
    return "rethink" if called.name != "rethink" or (found is not None and Path(found) == called) else str(called)


def wall_time(summary: Mapping[str, Any]) -> str:
    """Time and memory of a run, a line."""
    return f"wall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB"


def show_tried(summary: Mapping[str, Any], model: Path) -> None:
    """A command that asks the model as it was trained, with what it prints, and one that measures it on its own tasks.

    Args:
        summary: of the run; `tried` holds a held-out problem and the model's turn.
        model: its folder.
    """
    words = [program(), "sample", "--model", shlex.quote(str(model))]
    tried = summary.get("tried")
    if tried is None:
        say(f'\nTry it: {" ".join(words)} "…"')
        return
    question = str(tried["question"])
    words += ["--seed", str(tried["seed"])] if "seed" in tried else []
    words += ["--"] if question.startswith("-") else []
    say(f"\nTry it: {' '.join(words)} {shlex.quote(question)}")
    say("\n".join(f"    {line}" for line in str(tried["turn"]).splitlines()))
    from rethink.store.as_trained import read_as_trained  # `rethink --help` does without

    record = read_as_trained(model)
    if record is not None and record.tasks:
        names = ",".join(dict.fromkeys(task.name for task in record.tasks))
        say(f"Measure it: {program()} eval --model {shlex.quote(str(model))} --bench {shlex.quote(names)}")


def show_places(summary: Mapping[str, Any], out: Path) -> None:
    """The time of a run of any kind, and the paths of what it left."""
    if "wall_s" in summary:
        say(f"\nwall time {summary['wall_s'] / 60:.1f} min\n")
    say(f"folder  {out}")
    for name, path in (("report", out / "report.html"), ("model", out / "model")):
        if path.exists():
            say(f"{name:<7} {path}")
