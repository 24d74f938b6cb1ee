"""The tiny run of the GRPO tests, on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rethink.distributed.rank_group import Group
from tests.kinds.grpo.conftest import recipe_file

__all__ = ["recipe_file"]
At = Callable[[set[int], Callable[[], None]], None]


@pytest.fixture
def at_exchange(monkeypatch: pytest.MonkeyPatch) -> At:
    """`at_exchange(numbers, strike)`: strike in the midst of steps: before the first rank's exchanges of gradients of
    these numbers."""

    def on(numbers: set[int], strike: Callable[[], None]) -> None:
        add, calls = Group.add, [0]

        def watched(group: Group, *arguments: Any) -> None:
            calls[0] += group.rank == 0
            if group.rank == 0 and calls[0] in numbers:
                strike()
            add(group, *arguments)

        monkeypatch.setattr(Group, "add", watched)

    return on
