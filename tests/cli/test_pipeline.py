"""`rethink train` on pipelines, `rethink status` and `rethink clean` from the command line. Stages are fakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.store.cluster_log import add_event
from tests.kinds.pipeline.conftest import EVALUATION, RECIPE, Fake, broken

SHAPE = """\
  shape: {hidden_size: 64, layers: 2, heads: 4, kv_heads: 2, head_dim: 16, intermediate_size: 128, vocab_size: 1000,
    context: 512}
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr("rethink.kinds.pipeline.run.runner", lambda kind: made)
    monkeypatch.setattr("rethink.kinds.pipeline.run.environment", dict)
    monkeypatch.setattr("rethink.runs.session.environment", dict)
    return made


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE + EVALUATION)
    return path


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_pipeline_from_start_to_clean(
    fake: Fake, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("train", recipe, "--out", out, "--plain", "--until", "zero") == 0
    assert fake.ran == ["zero"]
    assert "1 stages run" in capsys.readouterr().out
    assert run("train", recipe, "--out", out, "--json") == 0
    summary = said(capsys)
    assert summary["event"] == "summary"
    assert summary["complete"] is True
    assert run("status", out, "--json") == 0
    assert said(capsys)["complete"] is True
    assert run("status", out) == 0
    assert "8 of 9 stages done" not in capsys.readouterr().out
    assert run("status", out, "--lineage", "last", "--json") == 0
    assert [stage["stage"] for stage in said(capsys)["from"]] == ["tuned", "zero"]  # type: ignore[attr-defined, index]
    assert run("status", out, "--lineage", "last") == 0
    assert "from zero (grpo)" in capsys.readouterr().out
    assert run("report", out, "--json") == 0
    assert said(capsys)["report"] == str(out / "report.html")
    assert run("train", recipe, "--out", out, "--plain", "stages.last.recipe.steps=3") == 0
    capsys.readouterr()
    assert run("clean", out, "--dry-run", "--json") == 0
    planned = said(capsys)
    assert len(planned["removed"]) == 2  # type: ignore[arg-type]
    assert run("clean", out, "--json") == 0
    assert said(capsys)["removed"] == planned["removed"]
    assert run("clean", out) == 0
    assert "0 removed" in capsys.readouterr().out


def test_a_failure_and_an_interruption(
    fake: Fake, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fake.failing["tuned"] = broken()
    assert run("train", recipe, "--out", out, "--plain") == 1
    said = capsys.readouterr().err
    assert "`tuned` failed: the machine is on fire. These wait for it: `eval-tuned`, `last`, `eval-last`." in said
    fake.failing.clear()
    fake.stopping.add("tuned")
    assert run("train", recipe, "--out", out, "--plain") == 130
    assert "The run is saved. To resume:" in capsys.readouterr().err
    add_event(out, {"event": "lost", "worker": "worker-0.1", "host": "far", "cause": "it was killed"})
    assert run("status", out) == 0
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "1 workers or trainer ranks were lost, and others started. worker-0.1 of far: it was killed" in shown


def test_a_plan(fake: Fake, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = "vars.base=no/such/model"
    models = [f"stages.{name}.recipe.model.shape={SHAPE.split(': ', 1)[1]}" for name in ("zero", "tuned", "other")]
    evaluation = f"evaluation.model={{shape: {SHAPE.split(': ', 1)[1]}}}"
    words = ["train", recipe, shape, *models, evaluation, "--out", tmp_path / "out", "--dry-run"]
    assert run(*words, "--json") == 0
    plan = said(capsys)
    stages = {stage["name"]: stage for stage in plan["stages"]}  # type: ignore[attr-defined, index]
    assert stages["zero"]["state"] == "new"
    assert stages["zero"]["tokens"] > 0
    assert stages["last"]["flops"] > 0  # its shape is that of the stage it comes from
    assert plan["total"]["disk_peak_bytes"] > 0  # type: ignore[index]
    assert run(*words, "--until", "zero") == 0
    text = capsys.readouterr().out
    assert "left out" in text
    assert "1 of 9 stages to run" in text
    assert fake.ran == []


def test_the_papers_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage is estimated from what the recipe declares, with memory per processor and the published hours."""
    assert run("train", "paper/r1", "--dry-run", "--json") == 0
    stages = {stage["name"]: stage for stage in said(capsys)["stages"]}  # type: ignore[attr-defined]
    for name, stage in stages.items():
        assert stage["flops"] > 1e18, name
        assert stage["gpus"]["bytes_each"] <= 80e9, name
    assert stages["helpful"]["tokens"] == 66000 * 3000
    assert run("train", "paper/r1", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "147 thousand H800 GPU hours" in text
    assert "GPU hours" in text
    assert "?" not in text.split("`?`")[0]


def test_refusals(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "quickstart", "--only", "zero") == 2
    assert "of the kind `grpo`, which has no stages" in capsys.readouterr().err
    assert run("status", tmp_path) == 2
    assert "neither a run nor a pipeline" in capsys.readouterr().err
    assert run("clean", tmp_path) == 2
    assert run("train", recipe, "--out", tmp_path / "x", "--from", "zeor") == 2
    assert "Did you mean `zero`?" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
