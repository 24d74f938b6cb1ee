"""The tiny run of the GRPO tests, on a cluster."""

from __future__ import annotations

from tests.kinds.grpo.conftest import recipe_file

__all__ = ["recipe_file"]
