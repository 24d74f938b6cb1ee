"""What the closing lines of every kind of run share."""

from __future__ import annotations

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


def show_places(summary: Mapping[str, Any], out: Path) -> None:
    """The time of a run of any kind, and the paths of what it left."""
    if "wall_s" in summary:
        say(f"\nwall time {summary['wall_s'] / 60:.1f} min\n")
    say(f"folder  {out}")
    for name, path in (("report", out / "report.html"), ("model", out / "model")):
        if path.exists():
            say(f"{name:<7} {path}")
