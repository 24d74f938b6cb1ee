"""`rethink train` around a made-up run: what it asks for, prints, refuses and says on Ctrl-C."""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.errors import RunFailure
from rethink.machine import allocator, speed
from rethink.store.run_folder import RunFolder

RECIPE = """\
name: little
steps: 12
tasks:
  - {kind: reasoning-gym, name: chain_sum}
"""


def evaluation(accuracy: float) -> dict[str, Any]:
    interval = [accuracy - 0.05, accuracy + 0.05]
    return {
        "accuracy": accuracy,
        "accuracy_ci": interval,
        "format": 1.0,
        "length_mean": 20.0,
        "truncated": 0.0,
        "n": 200,
    }


def sample(text: str, accuracy: float | None) -> dict[str, Any]:
    return {"question": "1 + 2 =", "gold": "3", "completion": text, "accuracy": accuracy, "format": 1.0}


SUMMARY: dict[str, Any] = {
    "recipe": "little",
    "recipe_hash": "0" * 64,
    "finished": True,
    "steps": 12,
    "wall_s": 90.0,
    "peak_rss_mb": 2048.0,
    "tokens_total": 1000,
    "before": evaluation(0.2),
    "after": evaluation(0.85),
    "samples_before": [sample("five\nor six", 0.0)] * 5,
    "samples_after": [sample("it is three", None)] * 5,
}


class Runner:
    """Stands in for `rethink.kinds.grpo.run`."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.finished = True

    def train(self, recipe: Any, out: Path, *, resume: bool, progress: Any) -> dict[str, Any]:
        self.calls.append({"recipe": recipe, "out": out, "resume": resume})
        progress.start(recipe.steps)
        progress.step({"step": 1, "reward/mean": 0.5})
        progress.close()
        if self.error is not None:
            raise self.error
        return {**SUMMARY, "finished": self.finished}


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """The stand-in, in an empty folder that holds `little.yaml`."""
    found = Runner()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "little.yaml").write_text(RECIPE)
    monkeypatch.setitem(sys.modules, "rethink.kinds.grpo.run", types.SimpleNamespace(train=found.train))
    monkeypatch.setattr(allocator, "tune_allocator", lambda: True)
    monkeypatch.setattr(speed, "measure_gemm", lambda **_: {"float32": 100.0, "bfloat16": 400.0})
    return found


def make_run(out: Path) -> None:
    RunFolder.create(out, recipe_yaml=RECIPE, recipe_hash="x", environment={}, choices={})


class TestRun:
    def test_recipe_overrides_and_folder_reach_the_run(self, runner: Runner) -> None:
        assert main.main(["train", "little.yaml", "steps=3", "--out", "here", "rollout.group_size=4", "--resume"]) == 0
        (call,) = runner.calls
        assert (call["recipe"].steps, call["recipe"].rollout.group_size) == (3, 4)
        assert (call["out"], call["resume"]) == (Path("here"), True)

    def test_over_memory_reaches_the_run_and_the_command_to_go_on(
        self, runner: Runner, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_run(Path("runs/little"))
        runner.finished = False
        main.main(["train", "little.yaml", "steps=3", "--over-memory"])
        assert runner.calls[0]["recipe"].optimizer.over_memory
        assert runner.calls[0]["recipe"].steps == 3
        assert "steps=3 --out runs/little --resume --over-memory" in capsys.readouterr().err
        assert main.main(["train", "r1-smoke", "--over-memory"]) == 2
        assert "optimizer.over_memory=true in the stage" in capsys.readouterr().err

    def test_folder_follows_the_name(self, runner: Runner) -> None:
        main.main(["train", "little.yaml"])
        assert runner.calls[0]["out"] == Path("runs/little")

    def test_end_shows_table_samples_and_places(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["train", "little.yaml", "--plain"])
        text = capsys.readouterr().out
        assert "step 1/12" in text
        assert "20.0 %" in text
        assert "85.0 %" in text
        assert text.count("Question: 1 + 2 =   (answer: 3)") == 3
        assert "  before (accuracy 0, format 1):\n    five\n    or six\n" in text
        assert "  after (accuracy none, format 1):\n    it is three\n" in text
        assert "wall time 1.5 min, peak memory 2.0 GiB" in text
        for name in ("folder  runs/little", "report  runs/little/report.html", "model   runs/little/model"):
            assert name in text

    def test_json_ends_with_the_summary(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["train", "little.yaml", "--json"])
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [event["event"] for event in events] == ["start", "step", "end", "summary"]
        assert events[-1]["folder"] == "runs/little"
        assert events[-1]["after"] == SUMMARY["after"]

    def test_a_run_without_evaluation_has_no_table(
        self, runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("before", "after", "samples_before", "samples_after"):
            monkeypatch.delitem(SUMMARY, name)
        monkeypatch.setitem(SUMMARY, "diagnosis", "In 9 of the last 9 steps no group had a signal.")
        assert main.main(["train", "little.yaml"]) == 0
        text = capsys.readouterr().out
        assert "report  runs/little/report.html" in text
        assert "In 9 of the last 9 steps no group had a signal." in text


class TestTrouble:
    def test_ctrl_c_that_saved_is_130_with_the_command(
        self, runner: Runner, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_run(Path("runs/a b"))
        runner.finished = False
        assert main.main(["train", "little.yaml", "--out", "runs/a b", "steps=5"]) == 130
        captured = capsys.readouterr()
        assert "To resume: rethink train little.yaml steps=5 --out 'runs/a b' --resume" in captured.err
        assert "Question" not in captured.out

    def test_ctrl_c_before_the_start_promises_nothing(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        runner.error = KeyboardInterrupt()
        assert main.main(["train", "little.yaml"]) == 130
        assert "Nothing was started." in capsys.readouterr().err

    def test_a_failed_run_is_1(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        runner.error = RunFailure("The loss is not a number.")
        assert main.main(["train", "little.yaml"]) == 1
        assert capsys.readouterr().err == "rethink: The loss is not a number.\n"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("missing.yaml", "neither a file here nor a recipe that ships"),
            ("quikstart", "Did you mean `quickstart`?"),
            ("little.yaml rollout.group_sise=4", "group_size"),
            ("little.yaml rollout.group_size=1", "group_size"),
        ],
    )
    def test_a_bad_recipe_is_2_before_anything_starts(
        self, runner: Runner, capsys: pytest.CaptureFixture[str], words: str, said: str
    ) -> None:
        assert main.main(["train", *words.split()]) == 2
        captured = capsys.readouterr()
        assert said in captured.err
        assert captured.err.count("\n") == 1
        assert runner.calls == []


class TestDryRun:
    @pytest.mark.parametrize("name", ["paper/r1-zero", "paper/r1-zero-qwen-32b"])
    def test_declared_shape_needs_no_model(self, runner: Runner, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert main.main(["train", name, "--dry-run"]) == 0
        text = capsys.readouterr().out
        assert "group_size: 16" in text
        assert "Parameters" in text
        assert "bfloat16" in text
        assert runner.calls == []

    def test_json_holds_recipe_hash_and_estimate(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["train", "paper/r1-zero", "--dry-run", "--json", "seed=7"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["recipe"]["seed"] == 7
        assert len(found["recipe_hash"]) == 64
        assert found["estimate"]["phases"][0]["seconds_per_step"] > 0

    def test_nothing_is_written(self, runner: Runner, tmp_path: Path) -> None:
        main.main(["train", "paper/r1-zero", "--dry-run"])
        assert sorted(path.name for path in tmp_path.iterdir()) == ["little.yaml"]

    def test_a_missing_model_is_found_out(self, runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["train", "little.yaml", "--dry-run", "model.path=./nowhere"]) == 2
        assert "nowhere" in capsys.readouterr().err

    def test_a_row_that_is_too_long_is_found_out(
        self, runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_folder: Callable[..., Path]
    ) -> None:
        rows = [{"question": f"{i}?", "answer": "1"} for i in range(200)]
        rows[150]["question"] = rows[151]["question"] = "long " * 400
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = ["tasks=[{kind: jsonl, name: rows.jsonl}]", f"model.path={tiny_folder('llama')}"]
        code = main.main(["train", "little.yaml", "--dry-run", *source, "rollout.max_new_tokens=8"])
        err = capsys.readouterr().err
        assert code == 2
        assert "rows/train/150" in err
        assert "the context of" in err
