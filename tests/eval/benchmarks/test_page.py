"""docs/benchmarks.md is what the registry says."""

from __future__ import annotations

from rethink.eval.benchmarks.page import markdown
from tests.paths import ROOT


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text("utf-8") == markdown() + "\n", "run `make docs`"
