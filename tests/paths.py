"""Where tests find what is not in the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("RETHINK_SHARED_DATA", ROOT.parent / "shared" / "data"))
"""Reference data beside a checkout; tests that need it skip where it is missing. RETHINK_SHARED_DATA names another
place."""
