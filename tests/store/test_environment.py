"""The record of where a run was made: right numbers, no secrets."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from rethink.store import environment as env


def test_it_is_json_with_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-value")
    found = env.environment()
    text = json.dumps(found)
    assert found["packages"]["numpy"]
    assert found["cores"] >= 1
    assert "s3cret" not in text
    assert os.uname().nodename not in text or len(os.uname().nodename) < 5


def test_processor_and_memory_are_read(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Fast One\nflags\t\t: fpu avx2 avx512_bf16\n\nmodel name: B\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 5 kB\n")
    found = env.environment(tmp_path)
    assert found["processor"] == {"name": "Fast One", "instructions": ["avx2", "avx512_bf16"]}
    assert found["memory_gib"] == 16.0


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert env.memory_gib(tmp_path) is None
    assert env.processor(tmp_path)["instructions"] == []


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True)


def test_git_state(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert env.git_state(package) is None
    git(tmp_path, "init")
    assert env.git_state(package) is None, "code that the repository does not track is not of its commit"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    state = env.git_state(package)
    assert state is not None
    assert (len(state["commit"]), state["changed"]) == (40, False)
    (package / "__init__.py").write_text("x = 1")
    changed = env.git_state(package)
    assert changed is not None
    assert changed["changed"]
