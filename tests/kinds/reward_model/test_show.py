"""`rethink train` with a recipe of the kind `reward-model`, as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from tests.kinds.reward_model.examples import RECIPE, pairs, write_rows


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    data = write_rows(tmp_path / "pairs.jsonl", [row | {"synthetic": True, "rule": "good-over-bad"} for row in pairs()])
    path = tmp_path / "rm.yaml"
    path.write_text(RECIPE.format(model=tiny_folder("llama"), data=data))
    return path


def test_dry_run(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["data"]["train"] + plan["data"]["held_out"] == 60
    found = plan["estimate"]
    assert found["steps"] == -(-4 * plan["data"]["train"] // 8)
    assert found["documents"] == plan["data"]["train"]
    assert found["total_tokens"] > 0
    assert found["total_seconds"] > 0
    assert main(["train", str(recipe), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "kind: reward-model" in said
    assert "60 good-over-bad: made by rule, not by people" in said


def test_a_plan_without_files(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From declared sizes alone; beyond this machine, it says what it would take elsewhere."""
    words = [
        *("data.0.path=nowhere.jsonl", "model.path=no/such/model", "data_size={examples: 66000, tokens: 3000}"),
        "model.shape={hidden_size: 4096, layers: 32, heads: 32, kv_heads: 8, head_dim: 128, intermediate_size: 14336, "
        "vocab_size: 128256, context: 131072}",
        *("epochs=1", "batch_size=256", "max_tokens=8192", "--dry-run"),
    ]
    assert main(["train", str(recipe), *words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["data"] is None
    assert plan["estimate"]["steps"] == 258
    assert plan["estimate"]["total_flops"] > 6 * 6.9e9 * 66000 * 3000
    assert plan["gpus"]["number"] == 8
    assert main(["train", str(recipe), *words]) == 0
    assert "On H800 of 80 GB: at least 8" in capsys.readouterr().out


def test_train_shows_what_came_of_it_and_says_what_is_synthetic(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", str(recipe), "--out", str(out), "--plain", "epochs=1"]) == 0
    said = capsys.readouterr().out
    for words in ("step 1/", "held-out pairs", "calibration error", "made by rule, not by people", str(out / "model")):
        assert words in said, words
    page = (out / "report.html").read_text()
    assert "Examples and calibration" in page
    assert "Synthetic: pairs made by rule and not by people (60 by good-over-bad)" in page
    assert json.loads((out / "model" / "reward_model.json").read_text())["rules"] == ["good-over-bad"]
    assert json.loads((out / "summary.json").read_text())["synthetic"] is True
    assert main(["train", str(recipe), "--out", str(out), "epochs=1"]) == 2
    assert "it is finished" in capsys.readouterr().err


def test_bad_data_is_one_paragraph(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"prompt": "x", "chosen": "a", "rejected": "a"}])
    assert main(["train", str(recipe), f"data.0.path={bad}", "--out", str(tmp_path / "out")]) == 2
    assert "1 examples cannot be used: 1 × equal" in capsys.readouterr().err
    assert main(["check", str(recipe)]) == 2
    assert "scores no completions" in capsys.readouterr().err
