"""What the terminal says of a run on preferences that finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.kinds.closing import show_tried, wall_time
from rethink.kinds.reward_model.show import accuracy_text, data_lines
from rethink.terminal import make_console, say


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Held-out accuracy of the implicit reward before and after, the data, and the paths."""
    held_out = summary.get("held_out") or {}
    if len(held_out) == 2:
        from rich.table import Table

        before, after = held_out["before"], held_out["after"]
        table = Table(title=f"{after['n']:.0f} held-out examples, implicit reward", title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column)
        table.add_row("accuracy (95 % interval)", accuracy_text(before), accuracy_text(after))
        for name, label in (("loss", "loss"), ("margin_mean", "mean margin")):
            table.add_row(label, f"{before[name]:.3f}", f"{after[name]:.3f}")
        make_console().print(table)
    say("\n".join(data_lines(summary["data"])))
    say(f"\n{wall_time(summary)}\n")
    say(f"folder  {out}\nreport  {out / 'report.html'}\nmodel   {out / 'model'}")
    show_tried(summary, out / "model")
