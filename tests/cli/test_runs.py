"""`rethink runs`, `status` and `compare` of runs, and `rethink train RUN`: all read the folders alone."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.cli.train import folder_of, recipe_of
from rethink.machine import allocator
from rethink.recipe.identity import recipe_hash
from rethink.recipe.recipe_files import load_recipe, recipe_to_yaml
from rethink.store.lock import is_locked
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]


def make_run(path: Path, *overrides: str, right: str = "0011", done: int = 24, finished: bool = True) -> RunFolder:
    """A run of the quickstart as its folder has it; `right`: which of the held-out problems are solved at the end."""
    recipe = load_recipe("quickstart", overrides)
    folder = RunFolder.create(
        path, recipe_yaml=recipe_to_yaml(recipe), recipe_hash=recipe_hash(recipe), environment={"a": 1}, choices={}
    )
    share = right.count("1") / len(right)
    for step in range(done + 1):
        row = {"step": step, "reward/mean": step / 10, "time/step": 2.0}
        folder.append_metrics(row | ({"eval/accuracy": share * (step > 0)} if step in (0, done) else {}))
    rows = [{"task": "t", "question": f"{i}?", "answer": "1", "accuracy": float(c)} for i, c in enumerate(right)]
    folder.write_samples(f"step-{done:06d}", rows)
    if finished:
        folder.write_summary({"finished": True, "steps": done})
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four folders below `runs`: a finished run, one that was stopped, one that is damaged, and an empty pipeline."""
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/done"))
    make_run(Path("runs/group/half"), "optimizer.learning_rate=1e-5", right="1111", done=8, finished=False)
    make_run(Path("runs/torn"))
    Path("runs/torn/run.json").write_text("{")
    PipelineFolder.create(Path("runs/line"), {}).update("kind: pipeline\nname: line\n", {"name": "line"}, {})
    Path("runs/other").mkdir()
    return Path("runs")


def test_runs_are_listed_whatever_their_state(runs: Path, capsys: Capture) -> None:
    assert main.main(["runs", "--json"]) == 0
    found = {one["folder"]: one for one in json.loads(capsys.readouterr().out)["runs"]}
    states = {name: (one["state"], one["kind"], one["done"], one["total"]) for name, one in found.items()}
    assert states == {
        "runs/done": ("finished", "grpo", 24, 24),
        "runs/group/half": ("stopped", "grpo", 8, 24),
        "runs/line": ("stopped", "pipeline", 0, 0),
        "runs/torn": ("damaged", "?", None, None),
    }
    assert found["runs/done"]["accuracy"] == [0.0, 0.5]
    assert found["runs/done"]["seconds"] == 50.0
    assert main.main(["runs"]) == 0
    text = capsys.readouterr().out
    assert "8 of 24" in text
    assert "0.000 → 0.500" in text
    assert "runs/torn: `runs/torn/run.json` is damaged" in text
    assert main.main(["runs", "missing"]) == 2
    assert "there is no folder `missing`" in capsys.readouterr().err


def test_a_run_that_another_process_writes_is_running(runs: Path, capsys: Capture) -> None:
    code = (
        "import sys; from pathlib import Path; from rethink.store.lock import only_writer\n"
        "with only_writer(Path('runs/group/half')):\n    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert main.main(["status", "runs/group/half", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["state"], found["left"]) == ("running", 32.0)
        process.communicate()
    assert not is_locked(runs / "group" / "half")
    with RunFolder.open(runs / "done").lock():
        assert is_locked(runs / "done")


def test_status_of_a_run(runs: Path, capsys: Capture) -> None:
    assert main.main(["status", "runs/group/half"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("runs/group/half: quickstart (grpo), stopped\n  steps         8 of 24\n")
    assert "reward/mean   0.8" in text
    assert "files of `runs/group/half/evaluations` are lost: those of steps 0" in text
    assert text.endswith("rethink train runs/group/half --resume\n")
    assert main.main(["status", "runs/torn"]) == 0
    assert "is damaged" in capsys.readouterr().out
    assert main.main(["status", "runs/other"]) == 2
    assert "neither a run nor a pipeline" in capsys.readouterr().err


def test_runs_are_compared(runs: Path, capsys: Capture) -> None:
    words = ["compare", "runs/done", "runs/group/half"]
    assert main.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipes"] == {"optimizer.learning_rate": [2e-05, 1e-05]}
    assert found["curves"]["eval/accuracy"] == [[[0, 0.0], [24, 0.5]], [[0, 0.0], [8, 1.0]]]
    (paired,) = found["paired"]
    assert (paired["paired"]["n"], paired["paired"]["difference"]) == (4, 0.5)
    assert (paired["became_right"], paired["became_wrong"]) == (2, 0)
    assert main.main([*words, "runs/done"]) == 0
    text = capsys.readouterr().out
    assert "B - A on 4 held-out problems of both: +50.0 points" in text
    assert "optimizer.learning_rate  2e-05  1e-05  2e-05" in text
    assert main.main([*words, "runs/other"]) == 2
    assert "`runs/other` holds none" in capsys.readouterr().err
    assert main.main(["compare", "runs/done"]) == 2
    assert "at least two folders" in capsys.readouterr().err


def test_a_run_s_folder_is_its_recipe(runs: Path) -> None:
    args = main.parse(["train", "runs/group/half", "--resume", "steps=48"])
    folder = folder_of(args)
    assert folder == Path("runs/group/half")
    recipe = recipe_of(args.recipe, folder, args.overrides)
    assert recipe == load_recipe("quickstart", ["optimizer.learning_rate=1e-5", "steps=48"])
    assert folder_of(main.parse(["train", "quickstart"])) is None


def test_train_of_a_folder_continues_there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool, int]] = []

    def train(recipe: Any, out: Path, *, resume: bool, progress: Any) -> dict[str, Any]:
        asked.append((out, resume, recipe.steps))
        return {"finished": True, "wall_s": 1.0, "peak_rss_mb": 1.0}

    monkeypatch.setitem(sys.modules, "rethink.kinds.grpo.run", types.SimpleNamespace(train=train))
    monkeypatch.setattr(allocator, "tune_allocator", lambda: True)
    assert main.main(["train", "runs/group/half", "steps=30", "--resume", "--plain"]) == 0
    assert main.main(["train", "runs/done", "--out", "runs/again", "--plain"]) == 0
    assert asked == [(Path("runs/group/half"), True, 30), (Path("runs/again"), False, 24)]
