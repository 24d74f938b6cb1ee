"""What the terminal says of an evaluation that finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.terminal import say


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Every metric with its interval, and the path."""
    say(f"\n{summary['problems']} held-out problems, {summary['samples']} completion(s) of each")
    for name, entry in summary["metrics"].items():
        say(f"  {name:<12} {entry['mean']:.3f}  (95 % interval {entry['low']:.3f} to {entry['high']:.3f})")
    say(f"\nfolder  {out}")


def said(summary: Mapping[str, Any]) -> str:
    """A few words for a pipeline's view."""
    metrics = summary["metrics"]
    return ", ".join(
        f"{name} {100 * metrics[name]['mean']:.1f} %" for name in ("accuracy", "format") if name in metrics
    )
