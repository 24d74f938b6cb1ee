"""The page on reasoning-gym: what its levels are, in cells that hold any text."""

import json
from pathlib import Path

import pytest

from benchmarks import gym_survey


def test_levels_say_what_they_set_and_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = gym_survey.levels("chain_sum")
    assert row["level 0"] == {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    assert row["default"] == {"min_terms": 2, "max_terms": 6, "min_digits": 1, "max_digits": 4}
    assert row["changes"]["num_digits"][-1] == 10
    assert row["level 0 characters"] < row["default characters"]
    monkeypatch.setattr(gym_survey, "LEVELS", tmp_path / "levels.jsonl")
    odd = {"task": "odd", "changes": {}, "level 0": {}, "default": {}, "level 0 problem": ["a|b\n<i>" + "x" * 999, "1"]}
    gym_survey.LEVELS.write_text(json.dumps(row) + "\n" + json.dumps(odd) + "\n")
    lines = gym_survey.levels_table()
    assert any("max_terms 2 (6)" in line and "num_digits to 10" in line for line in lines)
    assert "no level: the defaults" in lines[-3]
    assert lines[-3].replace("\\|", "").count("|") == 6
    assert "`countdown`" in lines[-1]
