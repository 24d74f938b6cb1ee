"""Control groups: where one can be made, what it is told, and that none is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.rewards.code.verdict import run_script
from rethink.rewards.sandbox import groups, process
from rethink.rewards.sandbox.groups import SLACK, make_group
from rethink.rewards.sandbox.process import Limits, Sandbox
from tests.rewards.code.hostile import SCATTERED
from tests.rewards.sandbox_needed import needs_sandbox

Kernel = Callable[..., Path]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """`kernel("0::/user/run", files=…)`: a folder in place of /sys/fs/cgroup, whose new groups have those files."""
    make, read = Path.mkdir, Path.read_text

    def pretend(own: str, *files: str) -> Path:
        def mkdir(self: Path, *args: object, **kwargs: object) -> None:
            make(self)
            for name in files:
                (self / name).touch()

        def read_text(self: Path, *args: str) -> str:
            return own if str(self) == "/proc/self/cgroup" else read(self, *args)

        make(tmp_path / "user")
        make(tmp_path / "user" / "run")
        for folder in ("user", "user/run"):
            (tmp_path / folder / "cgroup.controllers").touch()
        monkeypatch.setattr(groups, "ROOT", tmp_path)
        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(Path, "mkdir", mkdir)
        return tmp_path

    return pretend


def test_a_group_of_version_2(kernel: Kernel) -> None:
    root = kernel("0::/user/run", "memory.max", "memory.events", "cgroup.procs")
    (root / "user" / "run" / "rethink-999999999-0").mkdir()
    group = make_group([17])
    assert group is not None
    (folder,) = (root / "user" / "run").glob(f"rethink-{os.getpid()}-*")
    assert (folder / "cgroup.procs").read_text() == "17"
    group.hold(100)
    assert (folder / "memory.max").read_text() == str(100 + SLACK)
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.kills() == 3


def test_where_none_can_be_made(kernel: Kernel) -> None:
    root = kernel("0::/user/run\n8:cpu,memory:/not/there")
    assert make_group([17]) is None
    assert list(root.glob("**/rethink-*")) == []


@needs_sandbox
@pytest.mark.slow
def test_the_kernel_counts_page_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.Job, "watch", lambda self: None)
    sandbox = Sandbox()
    try:
        if sandbox._group is None:
            pytest.skip("no control group can be made here")
        limits = Limits(cpu_seconds=30.0, wall_seconds=60.0, memory_bytes=160 << 20)
        trouble = run_script(f"{SCATTERED}\nscatter()", "", sandbox, limits)[1]
        assert trouble.startswith("held more than 160 MiB of memory")
        assert run_script("print(1)", "", sandbox, limits) == ("1\n", "")  # and the sandbox lives
    finally:
        sandbox.close()
