"""Runs on preferences from recipe to summary: learned, resumed bit for bit, refused before anything slow."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.errors import RecipeError, RunFolderError, TaskError
from rethink.kinds.preference.run import train_preference
from rethink.model.loading import load_checkpoint
from rethink.observe.glossary import describe
from rethink.observe.progress import Silent, make_progress
from rethink.recipe.preference import preference_objectives
from rethink.recipe.recipe_files import load_recipe
from rethink.store.run_folder import RunFolder
from tests.kinds.grpo.test_resume import die, kill_and_resume
from tests.kinds.reward_model.examples import labelled, pairs, write_rows

RECIPE = """\
name: tiny-dpo
kind: preference
steps: 6
threads: 1
model: {{path: {model}, dtype: float32}}
data:
  - {{path: {data}}}
batch_size: 8
optimizer: {{learning_rate: 3.0e-3, micro_batch_tokens: 150}}
evaluation: {{share: 0.25, every: 4}}
checkpoint: {{every: 3}}
"""
Run = Callable[..., dict[str, Any]]
SHORT = ("steps=2", "evaluation.every=null")


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    data = write_rows(tmp_path / "pairs.jsonl", pairs(40))
    path = tmp_path / "dpo.yaml"
    path.write_text(RECIPE.format(model=tiny_folder("llama"), data=data))
    return path


@pytest.fixture
def run(recipe_file: Path) -> Run:
    def go(out: Path, *overrides: str, resume: bool = False, progress: Silent | None = None) -> dict[str, Any]:
        recipe = load_recipe(recipe_file, overrides)
        return train_preference(recipe, out, resume=resume, progress=progress or make_progress("none"))

    return go


class Notes(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_a_run_and_what_it_leaves(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(out)
    folder = RunFolder.open(out)
    assert folder.read_summary() == json.loads(json.dumps(summary))
    rows = folder.metrics()
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 4, 6]
    # At the start the policy is its own reference: every reward is 0, so no side is ahead, and the loss is log 2.
    assert rows[0]["eval/margin"] == pytest.approx(0, abs=1e-5)
    assert rows[1]["preference/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert rows[1]["preference/reward_chosen"] == pytest.approx(0, abs=1e-5)
    before, after = summary["held_out"]["before"], summary["held_out"]["after"]
    assert after["accuracy"] > 0.8
    assert after["margin_mean"] > 0.1
    assert after["loss"] < 0.6 < before["loss"]
    assert rows[-1]["preference/reward_chosen"] > rows[-1]["preference/reward_rejected"]
    for row in rows:
        for name in row:
            assert describe(name)
    held = folder.read_samples("step-000006")
    assert held is not None
    assert len(held) == after["n"] == summary["data"]["held_out"]
    assert sum(entry["right"] for entry in held) == round(after["accuracy"] * after["n"])
    trained = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert not {row["prompt"][0]["content"] for row in trained} & {row["prompt"].removeprefix("user: ") for row in held}
    assert load_checkpoint(str(out / "model")).tokenizer.chat_template
    page = (out / "report.html").read_text()
    assert "Implicit rewards" in page
    assert "examples trained on" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", preference_objectives())
def test_every_objective_learns(run: Run, tmp_path: Path, name: str) -> None:
    summary = run(tmp_path / "out", f"algorithm.type={name}", "steps=4", "evaluation.every=null")
    held_out = summary["held_out"]
    assert held_out["after"]["loss"] < held_out["before"]["loss"]
    assert held_out["after"]["margin_mean"] > held_out["before"]["margin_mean"] + 0.02
    if preference_objectives()[name].paired:
        assert held_out["after"]["accuracy"] >= 0.8
    needs = preference_objectives()[name].needs
    assert (tmp_path / "out" / "reference").exists() == ("reference" in needs)
    assert ("preference/kl" in RunFolder.open(tmp_path / "out").metrics()[-1]) == ("kl" in needs)


@pytest.mark.parametrize("name", [pytest.param("dpo", marks=pytest.mark.slow), "kto"])
def test_a_reference_in_memory_gives_the_same_run(run: Run, tmp_path: Path, name: str) -> None:
    rows = []
    for kept in ("stored", "model"):
        run(tmp_path / kept, *SHORT, f"algorithm.reference={kept}", f"algorithm.type={name}")
        rows.append(RunFolder.open(tmp_path / kept).metrics())
    assert not (tmp_path / "model" / "reference").exists()
    for stored, computed in zip(*rows, strict=True):
        for key, value in stored.items():
            # At the start all rewards are 0 but for rounding, which then decides what is ahead.
            if not key.startswith(("time/", "memory/", "eval/accuracy", "preference/accuracy")):
                assert value == pytest.approx(computed[key], abs=1e-5), key


def test_killed_runs_end_like_the_whole_one(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    """While the reference is computed, between two checkpoints, and at the end."""
    whole = tmp_path / "whole"
    calls = int(die(recipe_file, whole, 0, "").stdout)
    kill_and_resume(recipe_file, whole, [calls // 8, calls // 2, calls * 7 // 8], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["dpo", "kto", "simpo"])
def test_killed_at_many_random_points(recipe_file: Path, tmp_path: Path, name: str) -> None:
    recipe_file.write_text(recipe_file.read_text() + f"algorithm: {{type: {name}}}\n")
    whole = tmp_path / "whole"
    calls = int(die(recipe_file, whole, 0, "").stdout)
    kill_and_resume(recipe_file, whole, random.Random(3).sample(range(1, calls), 10), tmp_path)


def test_the_stored_reference_is_computed_once_and_verified(run: Run, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(whole, "steps=4", "evaluation.every=null", "optimizer.schedule=constant")
    run(out, *SHORT, "optimizer.schedule=constant")
    (part,) = (out / "reference").iterdir()
    written = part.stat().st_mtime_ns
    notes = Notes()
    run(out, "steps=3", *SHORT[1:], "optimizer.schedule=constant", resume=True, progress=notes)
    assert part.stat().st_mtime_ns == written
    assert notes.said == []
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    run(out, "steps=4", *SHORT[1:], "optimizer.schedule=constant", resume=True, progress=notes)
    assert "computed again" in notes.said[0]
    assert (out / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


def test_changed_data_is_found_on_resume(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, *SHORT)
    write_rows(tmp_path / "pairs.jsonl", pairs(40, seed=1))
    with pytest.raises(RunFolderError, match="changed since the run"):
        run(out, "steps=4", SHORT[1], resume=True)


def test_kto_takes_labels_and_pairs(run: Run, tmp_path: Path) -> None:
    data, notes = write_rows(tmp_path / "labels.jsonl", labelled(20)), Notes()
    summary = run(tmp_path / "a", *SHORT, "algorithm.type=kto", f"data.0.path={data}", progress=notes)
    assert summary["data"]["share_good"] == 0.5
    assert notes.said == []
    apart = run(tmp_path / "b", *SHORT, "algorithm.type=kto")
    assert apart["data"]["train"] == 2 * (40 - apart["data"]["held_out"] // 2)
    few = write_rows(tmp_path / "few.jsonl", labelled(20)[:26])
    run(tmp_path / "c", "steps=1", SHORT[1], "algorithm.type=kto", f"data.0.path={few}", progress=notes)
    assert "algorithm.options.undesirable" in notes.said[0]


def test_unusable_examples_are_refused_or_counted(run: Run, tmp_path: Path) -> None:
    rows = [
        *pairs(20),
        {"prompt": "Equal?", "chosen": "a", "rejected": "a"},
        {"prompt": "Empty?", "chosen": "a", "rejected": " "},
        {"prompt": "Long? " + "word " * 300, "chosen": "a", "rejected": "b"},
    ]
    data = write_rows(tmp_path / "some.jsonl", rows)
    with pytest.raises(TaskError, match=r"3 examples cannot be used: 1 × equal .*line 21.*unusable=drop"):
        run(tmp_path / "out", f"data.0.path={data}")
    assert not (tmp_path / "out").exists()
    summary = run(tmp_path / "out", f"data.0.path={data}", "unusable=drop", *SHORT)
    assert summary["data"]["unusable"] == {"equal": 1, "empty": 1, "too-long": 1}


ONE = "algorithm.type=kto"


@pytest.mark.parametrize(
    ("rows", "overrides", "error", "words"),
    [
        (labelled(9)[:9], [ONE], TaskError, r"examples are good ones, .*both kinds. Give bad answers.*`label: false`"),
        ([{**row, "prompt": "?"} for row in labelled(9)], [ONE, "evaluation={share: 0}"], TaskError, "the same prompt"),
        (labelled(9), [], TaskError, r"line 1.*Responses with a label are for objectives of labels"),
        (pairs(9), ["algorithm.type=dop"], RecipeError, "Write `algorithm.type=dpo`"),
        (pairs(9), ["epochs=1", "steps=null", "optimizer.warmup_steps=9"], RecipeError, "optimizer.warmup_steps"),
        (pairs(9), ["prompt.template=raw", "prompt.system=x"], RecipeError, "prompt.template=chat"),
        (pairs(9), ["data.0.path=nowhere.parquet"], TaskError, "cannot be read"),
    ],
)
def test_refusals_leave_no_folder(
    run: Run, tmp_path: Path, rows: list[Any], overrides: list[str], error: type, words: str
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(error, match=words):
        run(tmp_path / "out", f"data.0.path={data}", *overrides)
    assert not (tmp_path / "out").exists()


def test_the_command(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", str(recipe_file), *SHORT]
    assert main.main([*command, "--dry-run", "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["estimate"]
    assert main.main([*command, "--dry-run", "--json", "algorithm.reference=model"]) == 0
    held = json.loads(capsys.readouterr().out)["estimate"]
    assert (stored["steps"], stored["memory"]["reference_weights"]) == (2, 0)
    assert held["memory"]["reference_weights"] > 0
    assert not (tmp_path / "out").exists()
    assert main.main([*command, "--out", str(tmp_path / "out"), "--plain"]) == 0
    shown = capsys.readouterr().out
    assert "step 2/2  loss " in shown
    assert "implicit reward" in shown
    assert f"model   {tmp_path / 'out' / 'model'}" in shown
    assert main.main(["export", str(tmp_path / "out"), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "training on preferences with the objective `dpo` of DPO (arXiv 2305.18290), equation 7" in card
