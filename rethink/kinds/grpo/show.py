"""What the terminal says of a GRPO run that finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.kinds.closing import show_tried, wall_time
from rethink.terminal import make_console, say

SHOWN_SAMPLES = 3


def show(summary: Mapping[str, Any], out: Path) -> None:
    """The table before and after, three completions of each, and the paths."""
    from rethink.observe.report import before_after_table

    console = make_console()
    if summary.get("before") and summary.get("after"):
        console.print()
        console.print(before_after_table(summary))
    elif summary.get("diagnosis"):
        console.print(f"\n{summary['diagnosis']}", markup=False)
    _show_samples(summary)
    console.print(f"\n{wall_time(summary)}\n")
    say(f"folder  {out}\nreport  {out / 'report.html'}\nmodel   {out / 'model'}")
    show_tried(summary, out / "model")


def said(summary: Mapping[str, Any]) -> str:
    """A few words for a pipeline's view."""
    before, after = summary.get("before"), summary.get("after")
    if isinstance(before, Mapping) and isinstance(after, Mapping) and "accuracy" in after:
        return f"accuracy {100 * before['accuracy']:.1f} → {100 * after['accuracy']:.1f} %"
    return ""


def _show_samples(summary: Mapping[str, Any]) -> None:
    pairs = zip(summary.get("samples_before") or (), summary.get("samples_after") or (), strict=False)
    for before, after in list(pairs)[:SHOWN_SAMPLES]:
        say(f"\nQuestion: {before['question']}   (answer: {before['gold']})")
        for when, sample in (("before", before), ("after", after)):
            scores = ", ".join(f"{name} {_score(sample[name])}" for name in ("accuracy", "format"))
            say(f"  {when} ({scores}):")
            say("\n".join(f"    {line}" for line in str(sample["completion"]).strip().splitlines()))


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
