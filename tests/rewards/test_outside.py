"""A built-in reward is one file: one outside the package is found, checked and scored; nothing else knows its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.errors import RecipeError
from rethink.recipe.recipe_files import parse_recipe
from rethink.recipe.reward import rewards
from tests.paths import ROOT

RECIPE = "name: a\nsteps: 1\ntasks: [{kind: reasoning-gym, name: chain_sum}]\nreward: {parts: [{name: NAME}]}\n"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parent / "outside")
    rewards.cache_clear()
    yield
    rewards.cache_clear()
    sys.modules.pop("toy_reward", None)


def test_a_recipe_takes_it() -> None:
    parse_recipe(RECIPE.replace("NAME", "toy"), "The recipe")
    with pytest.raises(RecipeError, match="Did you mean `toy`"):
        parse_recipe(RECIPE.replace("NAME", "toyy"), "The recipe")


def test_it_scores(tmp_path: Path) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text(json.dumps({"question": "?", "answer": "", "completion": "abab"}) + "\n")
    assert main(["score", "--reward", "toy", "--option", "toy.letter=b", "--data", str(data), "--out", str(out)]) == 0
    assert '"toy": 0.5' in out.read_text()


def test_no_reward_is_known_by_name_elsewhere() -> None:
    """One of ours, as an example: its record is the only place in the package that names it."""
    found = [path for path in (ROOT / "rethink").rglob("*.py") if '"format-soft"' in path.read_text()]
    assert [path.name for path in found] == ["ours.py"]
