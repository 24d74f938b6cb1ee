"""Runs that sample close the engine that they opened: on a cluster, its workers would stay until the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.rollout.engines.torch import TorchEngine

SHARED = """\
kind: {kind}
name: closing
threads: 1
model: {{path: {model}, dtype: float32}}
tasks: [{{kind: reasoning-gym, name: chain_sum, params: {{min_terms: 2, max_terms: 2, max_digits: 1}}}}]
prompt: {{template: raw, instruction: "{{question}}"}}
"""
OWN = {
    "grpo": "rollout: {prompts_per_batch: 2, group_size: 2, max_new_tokens: 4}\nsteps: 1\nevaluation: {problems: 2}\n",
    "eval": "problems: 2\nmax_new_tokens: 4\n",
    "samples": "problems: 2\nsampling: {per_problem: 2, max_new_tokens: 4}\n"
    "filters: {correct: null, format: null, language: null, tags: false, truncated: false, repetition: null, "
    "duplicate: null}\n",
}


@pytest.mark.parametrize("kind", OWN)
def test_a_run_closes_its_engine(
    kind: str, tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[TorchEngine] = []
    monkeypatch.setattr(TorchEngine, "close", lambda engine: closed.append(engine))
    path = tmp_path / "recipe.yaml"
    path.write_text(SHARED.format(kind=kind, model=tiny_folder("llama")) + OWN[kind])
    assert main(["train", str(path), "--out", str(tmp_path / "out"), "--plain"]) == 0
    assert len(closed) == 1
