"""Before and after on the held-out problems as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rethink.observe.report.before_after import comparison, verdict


def before_after_table(summary: Mapping[str, Any]) -> RenderableType:
    """Accuracy with its interval, format, length and number of problems: before, after, change.

    Args:
        summary: what `summary.json` holds; `before` or `after` may be missing and is then shown as dashes. Its
            `diagnosis` is said below the table.
    """
    before, after = summary.get("before"), summary.get("after")
    table = Table(title="Held-out problems", title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison(before, after):
        bold = "bold" if row.label == "accuracy" else ""
        table.add_row(*(Text(cell, style=bold) for cell in (row.label, row.before, row.after, row.change)))
    words = verdict(before, after, str(summary.get("diagnosis") or ""))
    return Group(table, Text(words, style="dim")) if words else table
