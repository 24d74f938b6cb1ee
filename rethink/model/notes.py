"""What a user should know about a model and that is no error: said once, on standard error."""

from __future__ import annotations

import functools
import sys

from rethink.terminal import say


@functools.cache
def note_once(text: str) -> None:
    """Print a line, the first time that it is said in this process."""
    say(f"rethink: {text}", file=sys.stderr)
