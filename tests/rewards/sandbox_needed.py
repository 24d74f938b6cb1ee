"""Tests that run programs skip, with the reason, where this machine cannot isolate them; CI does not let them skip."""

from __future__ import annotations

import os

import psutil
import pytest

from rethink.rewards.code.part import check_isolation
from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable

try:
    check_isolation("required")
    _missing: SandboxUnavailable | None = None
except SandboxUnavailable as error:
    _missing = error

if _missing is not None and os.environ.get("RETHINK_REQUIRE_SANDBOX") == "1":
    raise _missing

needs_sandbox = pytest.mark.skipif(
    _missing is not None, reason=f"no sandbox here: {_missing.cause if _missing else ''}"
)


def children() -> set[int]:
    """Ids of the processes that this one has started, and theirs; not those that have ended."""
    return {p.pid for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}
