"""The pages that draw the layers show those of `pyproject.toml`."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import ROOT


def test_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev/layers.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
