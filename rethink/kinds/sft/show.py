"""What the terminal says of a fine-tuning run that finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.kinds.closing import show_tried, wall_time
from rethink.terminal import say


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Losses before and after, what was read, and the paths."""
    losses = summary.get("eval_loss") or {}
    if "after" in losses:
        say(
            f"\nheld-out loss {losses['before']:.4f} -> {losses['after']:.4f} on {losses['documents']} documents "
            "(nats per trained token)"
        )
    if "train_loss" in summary:
        first, last = summary["train_loss"]["first"], summary["train_loss"]["last"]
        say(f"training loss {first:.4f} in the first step, {last:.4f} in the last")
    for entry in summary["data"]:
        if entry["dropped"]:
            say(f"{entry['path']}: {entry['dropped']} of {entry['rows']} rows were too long and left out")
    say(f"{wall_time(summary)}\n")
    say(f"folder  {out}\nreport  {out / 'report.html'}\nmodel   {out / 'model'}")
    show_tried(summary, out / "model")
