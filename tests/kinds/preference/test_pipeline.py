"""Stages of a pipeline that train on preferences: iterative DPO from a model's own samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.store.run_folder import RunFolder

PIPELINE = """\
name: rounds
kind: pipeline
threads: 1
stages:
  first:
    kind: preference
    recipe:
      model: {{path: {model}, dtype: float32}}
      data: [{{path: {folder}/samples.jsonl, format: samples}}]
      steps: 2
      batch_size: 4
      evaluation: {{share: 0.2}}
      optimizer: {{learning_rate: 1.0e-3}}
  second:
    kind: preference
    recipe:
      model: {{path: "${{first.model}}", dtype: float32}}
      algorithm: {{type: kto}}
      data: [{{path: "${{first.pairs}}"}}]
      steps: 2
      batch_size: 4
      evaluation: {{share: 0.2}}
      optimizer: {{learning_rate: 1.0e-3}}
"""


def test_rounds_on_samples(
    tmp_path: Path, tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second round reads the pairs that rules made in the first, and goes on with its model."""
    rows = [
        {"task": "sums", "question": f"{i} + 1?", "completion": text, "rewards": {"accuracy": score}}
        for i in range(12)
        for text, score in ((str(i + 1), 1.0), ("no", 0.0))
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe, out = tmp_path / "rounds.yaml", tmp_path / "out"
    recipe.write_text(PIPELINE.format(model=tiny_folder("llama"), folder=tmp_path))
    assert main(["train", str(recipe), "--dry-run", "--out", str(out)]) == 0
    assert "second" in capsys.readouterr().out
    assert main(["train", str(recipe), "--out", str(out), "--plain"]) == 0
    first, second = (RunFolder.open(next(out.glob(f"stages/{name}-*/"))) for name in ("first", "second"))
    summary = first.read_summary()
    assert summary is not None
    assert summary["data"]["samples"]["pairs"] == 12
    assert summary["data"]["synthetic"] == {"right-over-wrong": 12}
    assert "preference/kl" in second.metrics()[-1]
    # The reference of a round is the model that it starts from.
    assert second.metrics()[1]["preference/reward_chosen"] == pytest.approx(0, abs=1e-5)
    assert (second.path / "model" / "model.safetensors").exists()
    assert main(["status", str(out)]) == 0
    assert "second" in capsys.readouterr().out
