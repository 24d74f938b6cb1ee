"""A kind of run in one folder outside the package goes through every verb; nothing else has to know its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.errors import RecipeError
from rethink.recipe.kind import kinds
from rethink.recipe.recipe_files import parse_recipe
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder

OUTSIDE = Path(__file__).parent / "outside"
ALONE = "name: alone\nkind: toy\nsteps: 3\nmodel: {{path: {model}}}\n"
PIPELINE = """\
name: both
kind: pipeline
vars: {{tasks: [{{kind: jsonl, name: {rows}}}]}}
stages:
  copied: {{kind: toy, recipe: {{steps: 4, model: {{path: {model}}}, tasks: "${{vars.tasks}}"}}}}
  again: {{kind: toy, recipe: {{steps: 2, model: {{path: "${{copied.model}}"}}}}}}
evaluation:
  {{tasks: "${{vars.tasks}}", problems: 2, max_new_tokens: 4, kv_budget_gb: 0.1, model: {{dtype: float32}},
   prompt: {{template: raw, instruction: "{{question}}"}},
   reward: {{parts: [{{name: accuracy}}], answer: last-number}}}}
"""


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(OUTSIDE)
    kinds.cache_clear()
    yield
    kinds.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_kind"]:
        del sys.modules[name]


@pytest.fixture
def model(tiny_folder: Callable[..., Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture
def alone(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "alone.yaml"
    path.write_text(ALONE.format(model=model))
    return path


@pytest.fixture
def pipeline(tmp_path: Path, model: Path) -> Path:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "{n} + {n}?", "answer": "{2 * n}"}}\n' for n in range(40)))
    path = tmp_path / "both.yaml"
    path.write_text(PIPELINE.format(model=model, rows=rows))
    return path


def test_train_dry_run_report_and_card(alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", str(alone), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copies"] == 3
    assert main(["train", str(alone), "--dry-run"]) == 0
    assert "Copies in 3 steps." in capsys.readouterr().out
    assert main(["train", str(alone), "--out", str(out), "--plain"]) == 0
    assert f"copied in 3 steps into {out}" in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    assert "Loss of the toy" in (out / "report.html").read_text()
    assert main(["export", str(out), "--out", str(tmp_path / "exported")]) == 0
    assert "copying, step by step" in (tmp_path / "exported/README.md").read_text()


def test_check(alone: Path, pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(alone), "--json"]) == 2
    assert "scores no completions" in capsys.readouterr().err
    main(["check", str(pipeline), "--json"])
    assert list(json.loads(capsys.readouterr().out)["stages"]) == ["copied"]


def test_pipeline(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pipeline"
    assert main(["train", str(pipeline), "--out", str(out), "--dry-run", "--json"]) == 0
    planned = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)["stages"]}
    assert list(planned) == ["copied", "eval-copied", "again", "eval-again"]
    parameters = (planned["copied"]["disk_kept_bytes"] - 5) // 12  # three models of 4 bytes a parameter
    assert planned["copied"]["disk_peak_bytes"] - planned["copied"]["disk_kept_bytes"] == 3 * 14 * parameters
    assert planned["copied"]["flops"] == 7.0

    killed = subprocess.run(
        [sys.executable, "-m", "rethink", "train", str(pipeline), "--out", str(out), "--plain"],
        env={**os.environ, "PYTHONPATH": str(OUTSIDE), "TOY_DIES_AT": "3"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert main(["train", str(pipeline), "--out", str(out), "--plain"]) == 0
    said = capsys.readouterr().out
    assert "4 copies" in said

    folder = PipelineFolder.open(out)
    records = {record.name: record for record in folder.records().values()}
    assert {record.state for record in records.values()} == {"done"}
    assert records["copied"].attempts == 2
    assert records["copied"].compute["parameters"] > 0
    steps = [row["step"] for row in RunFolder.open(folder.stage_path(records["copied"])).metrics()]
    assert steps == [0, 1, 2, 3, 4]
    assert set(folder.read_results("summary")["results"]) == {"copied", "again"}
    assert main(["status", str(out), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert {stage["kind"] for stage in stages} == {"toy", "eval"}
    assert [stage["damage"] for stage in stages] == [[]] * 4
    assert "copied" in (out / "report.html").read_text()


def test_a_kind_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad-1.dist-info").mkdir()
    (tmp_path / "bad-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1\n")
    (tmp_path / "bad-1.dist-info/entry_points.txt").write_text("[rethink.kinds]\nbad = no_such_module:KIND\n")
    monkeypatch.syspath_prepend(tmp_path)
    kinds.cache_clear()
    with pytest.raises(RecipeError, match=r"package bad brings a kind of run that cannot be imported \(ModuleNotFound"):
        parse_recipe("name: x\nkind: toy\nsteps: 1\n", "The recipe")
