"""A default that changes needs a higher version of its kind."""

from __future__ import annotations

import copy

from dev.defaults import changed, current, main


def test_the_file_is_current() -> None:
    assert main(["--check"]) == 0


def test_what_needs_a_higher_version() -> None:
    now = current()
    assert now["grpo"]["defaults"]["optimizer.beta2"] == 0.95
    assert "reward.workers" not in now["grpo"]["defaults"]
    assert now["samples"]["defaults"]["reward"]["parts"][2] == {"name": "language"}
    before = copy.deepcopy(now)
    before["grpo"]["defaults"]["optimizer.beta2"] = 0.999
    before["grpo"]["defaults"]["gone"] = 1
    del before["sft"]["defaults"]["turns"]  # a new field
    (said,) = changed(before, now)
    assert "the default of optimizer.beta2 changed: raise `version` in the record of the kind `grpo`" in said
    before["grpo"]["version"] -= 1
    assert changed(before, now) == []
