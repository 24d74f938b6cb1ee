"""Where tests find data: the repository's own, and reference data beside a checkout."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("RETHINK_SHARED_DATA") or ROOT.parent / "shared" / "data")
"""Reference data beside a checkout, or where the variable says; tests that need it skip where it is missing."""
OWN_DATA = Path(__file__).parent / "data"


def vectors(name: str) -> list[dict[str, Any]]:
    """Rows of a conformance file: ours (`tests/data/make_conformance.py`), then the reference's where it is there."""
    files = [folder / "conformance" / f"{name}.jsonl" for folder in (OWN_DATA, SHARED_DATA)]
    return [json.loads(line) for path in files if path.is_file() for line in path.read_text("utf-8").splitlines()]


def vector_params(name: str) -> list[Any]:
    """`vectors` as parameters of a test; a missing reference file is one more that is skipped, so that it shows."""
    found: list[Any] = [pytest.param(row, id=str(row["id"])) for row in vectors(name)]
    path = SHARED_DATA / "conformance" / f"{name}.jsonl"
    if not path.is_file():
        found.append(pytest.param(None, id="reference", marks=pytest.mark.skip(reason=f"no reference data at {path}")))
    return found
