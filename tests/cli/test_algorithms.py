"""`rethink algorithms`: the list and one of it."""

from __future__ import annotations

import json
import re

import pytest

from rethink.cli.main import main
from rethink.recipe.objective import objectives
from rethink.recipe.preference import preference_objectives


def test_the_list_has_every_objective(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    listed = both["algorithms"]
    assert [entry["name"] for entry in both["preferences"]] == list(preference_objectives())
    assert all(entry["equation"] and entry["source"] for entry in both["preferences"])
    assert [entry["name"] for entry in listed] == list(objectives())
    assert {"grpo", "dr-grpo", "dapo", "rloo", "cispo", "gspo"} <= {entry["name"] for entry in listed}
    for entry in listed:
        assert entry["equation"]
        assert re.search(r"arXiv|(19|20)\d\d", entry["source"])
        assert entry["needs"].keys() == entry["extra_cost"].keys() == set(objectives()[entry["name"]].needs)
    assert main(["algorithms"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in [*objectives(), *preference_objectives()])
    assert "extra cost: a second pass of the head" in text


def test_one_objective_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms", "rloo"]) == 0
    text = capsys.readouterr().out
    assert "default   advantage: leave-one-out" in text
    assert "clip_low: null (cannot be set: its loss has no ratio" in text
    assert main(["algorithms", "gspo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["defaults"] == {"clip_low": 3e-4, "clip_high": 4e-4}
    assert main(["algorithms", "simpo"]) == 0
    assert "option    options.gamma: margin of the rewards (default 1)" in capsys.readouterr().out
    assert main(["algorithms", "gsop"]) == 2
    assert "Write `algorithm.type=gspo`" in capsys.readouterr().err
