"""For all tests: no network, and nothing that one test leaves to the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

# Read by libraries when they are imported, so they are set before any test module is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(autouse=True)
def _torch_threads_stay() -> Iterator[None]:
    """A test that sets torch's threads must not change how the next one computes."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        sys.modules["torch"].set_num_threads(before)
