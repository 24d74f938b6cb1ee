"""What the terminal says of a curation that finished."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.kinds.closing import program, wall_time
from rethink.terminal import say


def show(summary: Mapping[str, Any], out: Path) -> None:
    """The tables, and the paths."""
    say()
    say((out / "statistics.md").read_text(encoding="utf-8"))
    say(f"{wall_time(summary)}\n")
    say(f"folder      {out}\nsamples     {out / 'samples.jsonl'}\ntrain       {out / 'train.jsonl'}")
    say(f"\nTrain on it: {program()} train sft {shlex.quote(f'data.0.path={out}/train.jsonl')}")


def said(summary: Mapping[str, Any]) -> str:
    """A few words for a pipeline's view."""
    return f"{summary['kept']} samples kept" if isinstance(summary.get("kept"), int) else ""
