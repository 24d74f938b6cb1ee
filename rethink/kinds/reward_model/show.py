"""What the terminal says of a reward model that was trained, and of its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.kinds.closing import wall_time
from rethink.terminal import make_console, say

SHOWN_RELIABILITY = 3
"""Fewest examples of a bin that is shown."""


def data_lines(facts: Mapping[str, Any]) -> list[str]:
    """What the data are, a line each."""
    replayed = f" ({facts['replayed']} of them earlier ones)" if facts["replayed"] else ""
    lines = [f"examples         {facts['train']} to train on{replayed}, {facts['held_out']} held out"]
    if facts["unusable"]:
        listed = ", ".join(f"{n} {reason}" for reason, n in facts["unusable"].items())
        lines.append(f"left out         {listed}")
    if facts["synthetic"]:
        listed = ", ".join(f"{n} {rule}" for rule, n in facts["synthetic"].items())
        lines.append(f"synthetic        {listed}: made by rule, not by people")
    if facts.get("tokens_chosen") is not None:
        longer = facts["longer_is_better"]
        shown = "" if longer is None else f"; the longer one is the better one in {longer:.0%} of the held-out pairs"
        chosen, rejected = facts["tokens_chosen"], facts["tokens_rejected"]
        lines.append(f"length           {chosen:.0f} tokens chosen, {rejected:.0f} rejected{shown}")
    return lines


def show(summary: Mapping[str, Any], out: Path) -> None:
    """Held-out accuracy and calibration before and after, the data, and the paths."""
    from rich.table import Table

    console = make_console()
    before, after = summary.get("before"), summary.get("after")
    if before and after:
        what = "pairs" if summary["objective"] == "pairwise" else "responses"
        table = Table(title=f"{after['n']:.0f} held-out {what}", title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column)
        table.add_row("accuracy (95 % interval)", accuracy_text(before), accuracy_text(after))
        for name, label in (("loss", "loss"), ("ece", "calibration error"), ("margin_mean", "mean margin")):
            table.add_row(label, f"{before[name]:.3f}", f"{after[name]:.3f}")
        console.print(table)
        _show_reliability(after)
    say("\n".join(data_lines(summary["data"])))
    say(f"\n{wall_time(summary)}")
    say(f"folder  {out}\nmodel   {out / 'model'}")
    say(f"\nAs a reward: reward.parts: [{{name: reward-model, model: {out / 'model'}}}]")


def accuracy_text(facts: Mapping[str, Any]) -> str:
    """Accuracy with its interval."""
    low, high = facts["accuracy_ci"]
    return f"{facts['accuracy']:.3f} ({low:.3f} – {high:.3f})"


def _show_reliability(after: Mapping[str, Any]) -> None:
    bins = [entry for entry in after["reliability"] if entry["n"] >= SHOWN_RELIABILITY]
    if bins:
        say("probability given → share right (examples)")
        say("   ".join(f"{entry['probability']:.2f} → {entry['share']:.2f} ({entry['n']})" for entry in bins))
