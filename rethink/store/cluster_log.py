"""What was lost of a run's cluster, and why: `cluster.jsonl` in its folder, which the driver writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rethink.reading import parse_json

NAME = "cluster.jsonl"
MOST_BYTES = 1 << 20
"""A longer record is not added to: something ends again and again, and its causes are there."""


def add_event(folder: Path, event: Mapping[str, Any]) -> None:
    """Add a line; what cannot be written is left out, since it is about the run and not of it."""
    path = folder / NAME
    with suppress(OSError):
        if not path.exists() or path.stat().st_size < MOST_BYTES:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dict(event)) + "\n")


def losses(folder: Path) -> list[dict[str, Any]]:
    """What was lost: `worker`, `host`, `cause`, `time` of each."""
    return [event for event in events(folder) if event.get("event") == "lost"]


def events(folder: Path) -> list[dict[str, Any]]:
    """All lines that are whole."""
    try:
        lines = (folder / NAME).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):
            event = parse_json(line)
            if isinstance(event, dict):
                found.append(event)
    return found
