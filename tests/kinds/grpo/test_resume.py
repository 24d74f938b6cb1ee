"""A run that is killed and resumed ends bit-identical to one that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError
from rethink.store.run_folder import RunFolder
from tests.paths import ROOT
from tests.runs.compare import same_run, timeless

DIE = ROOT / "tests/runs/die.py"
Run = Callable[..., dict[str, Any]]
CONSTANT = "optimizer.schedule=constant"


def die(recipe: Path, out: Path, at: int, when: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DIE), str(recipe), str(out), str(at), when],
        cwd=recipe.parent,
        env={**os.environ, "PYTHONPATH": f"{recipe.parent}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def kill_and_resume(
    recipe: Path, whole: Path, points: list[int], tmp_path: Path, same: Callable[[Path, Path], None] = same_run
) -> None:
    """Two points at a time: most of each is a process that starts, on one core. `same` asserts that runs are equal."""

    def at_point(number: int, at: int) -> None:
        out = tmp_path / f"killed-{number}"
        killed = die(recipe, out, at, random.Random(at).choice(["before", "after"]))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed = die(recipe, out, 0, "")
        assert resumed.returncode == 0, resumed.stderr
        same(whole, out)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(at_point, count(), points))


def test_killed_runs_end_like_the_whole_one(recipe_file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    done = die(recipe_file, whole, 0, "")
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    assert calls > 50
    kill_and_resume(recipe_file, whole, [calls * 2 // 5, calls * 3 // 4], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_random_points(recipe_file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    calls = int(die(recipe_file, whole, 0, "").stdout)
    points = random.Random(7).sample(range(1, calls), 12)
    kill_and_resume(recipe_file, whole, points, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_again_and_again_by_the_clock(recipe_file: Path, tmp_path: Path) -> None:
    """Killed at random times, resumed, killed again, until a run gets through."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert die(recipe_file, whole, 0, "").returncode == 0
    dice = random.Random(3)
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, str(DIE), str(recipe_file), str(out), "0", ""],
            cwd=recipe_file.parent,
            env={**os.environ, "PYTHONPATH": f"{recipe_file.parent}:{ROOT}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(3, 9))
        process.kill()
        process.wait()
    assert die(recipe_file, out, 0, "").returncode == 0
    same_run(whole, out)


def test_ctrl_c_finishes_the_step_and_resume_goes_on(recipe_file: Path, run: Run, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "rethink", "train", str(recipe_file), "--plain", "--out"]
    process = subprocess.Popen(
        [*command, str(out), "steps=400", CONSTANT],
        cwd=recipe_file.parent,
        env={**os.environ, "PYTHONPATH": f"{recipe_file.parent}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait() == 130, rest
    assert "Finishing this step" in rest
    assert "--resume" in rest
    stopped = RunFolder.open(out)
    steps = [row["step"] for row in stopped.metrics()]
    assert steps == list(range(len(steps)))
    latest = stopped.latest_checkpoint()
    assert latest is not None
    assert latest[0] == steps[-1] < 400
    # The same recipe, shortened to what is left: the end is that of a run of so many steps.
    last = steps[-1] + 2
    run(out, f"steps={last}", CONSTANT, resume=True)
    run(whole, f"steps={last}", CONSTANT)
    assert timeless(RunFolder.open(whole))[-2:-1] == timeless(RunFolder.open(out))[-2:-1]


def test_a_finished_run_is_extended(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", "steps=6", CONSTANT)
    extended = run(tmp_path / "out", "steps=8", CONSTANT, resume=True)
    run(tmp_path / "whole", "steps=8", CONSTANT)
    assert extended["steps"] == 8
    out, whole = timeless(RunFolder.open(tmp_path / "out")), timeless(RunFolder.open(tmp_path / "whole"))
    assert [row["step"] for row in out] == list(range(9))
    # The end of the shorter run was evaluated on all problems; everything else is equal.
    policy = [[{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows] for rows in (out, whole)]
    assert policy[0] == policy[1]
    assert out[-1] == whole[-1]


def test_an_occupied_folder_is_left_alone(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "steps=2", "optimizer.warmup_steps=0")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=r"finished.*steps=4.*--resume.*anew"):
        run(out, "steps=2", "optimizer.warmup_steps=0")
    with pytest.raises(RunFolderError, match=r"differs from this one.*learning_rate"):
        run(out, "steps=4", "optimizer.warmup_steps=0", "optimizer.learning_rate=0.5", resume=True)
    with pytest.raises(RunFolderError, match="already done 2 steps"):
        run(out, "steps=1", "optimizer.warmup_steps=0", resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_resume_on_an_empty_folder_starts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    summary = run(tmp_path / "out", "steps=1", "optimizer.warmup_steps=0", resume=True)
    assert summary["finished"]
    assert {"before", "after", "wall_s", "peak_rss_mb", "recipe_hash"} <= set(summary)
    assert {"accuracy", "accuracy_ci", "format", "length_mean", "n"} <= set(summary["after"])
