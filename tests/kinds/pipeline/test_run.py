"""What is run, what is skipped, what is found again; failures; the report. The stages themselves are fakes."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFailure, RunFolderError, StorageFailure, UsageError
from rethink.kinds.pipeline.disk import clean, cleanings
from rethink.kinds.pipeline.status import lineage, status
from rethink.observe.progress import make_progress
from rethink.recipe.kind import kinds
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.pipeline_folder import PipelineFolder

from .conftest import EVALUATION, RECIPE, Fake, broken, states

Go = Callable[..., dict[str, Any]]


def test_stages_run_in_order_and_once(go: Go, fake: Fake, tmp_path: Path) -> None:
    summary = go()
    assert fake.ran == ["zero", "tuned", "other", "last"]
    assert summary["finished"]
    assert summary["complete"]
    assert set(states(summary).values()) == {"done"}
    zero, tuned = (next(tmp_path.glob(f"out/stages/{name}-*/")) for name in ("zero", "tuned"))
    assert fake.recipes["tuned"].data[0].path == f"{zero}/rows.jsonl"
    assert fake.recipes["last"].model.path == f"{tuned}/model"
    assert not (zero / "checkpoints").exists()  # a stage that is done needs none
    assert set(states(go()).values()) == {"kept"}
    assert len(fake.ran) == 4


def test_a_change_runs_what_is_below_it_and_nothing_else(go: Go, fake: Fake) -> None:
    go()
    fake.ran.clear()
    go("stages.tuned.recipe.epochs=2")
    assert fake.ran == ["tuned", "last"]
    go("name=otherwise", "description=Said otherwise.", "stages.zero.recipe.checkpoint={every: 3}")
    assert fake.ran == ["tuned", "last"]  # words and checkpoints change no output
    go()
    assert fake.ran == ["tuned", "last"]  # back again: the first ones are still there
    go("seed=1")
    assert fake.ran[2:] == ["zero", "tuned", "other", "last"]


def test_a_renamed_stage_is_found_again(go: Go, fake: Fake, tmp_path: Path) -> None:
    go()
    fake.ran.clear()
    renamed = RECIPE.replace("zero:", "first:").replace("${zero.", "${first.")
    summary = go(text=renamed)
    assert fake.ran == []
    assert states(summary)["first"] == "kept"
    assert summary["stages"][0]["folder"].startswith(str(tmp_path / "out/stages/zero-"))


def test_a_kind_whose_meaning_changed_runs_again(go: Go, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    go()
    fake.ran.clear()
    newer = {**kinds(), "sft": replace(kinds()["sft"], version=99)}
    monkeypatch.setattr("rethink.recipe.kind.kinds", lambda: newer)
    go()
    assert fake.ran == ["tuned", "last"]


def test_two_stages_that_do_the_same_are_one(go: Go, fake: Fake, tmp_path: Path) -> None:
    summary = go("stages.other.recipe.steps=2")
    assert fake.ran == ["zero", "tuned", "last"]
    assert states(summary)["other"] == "kept"
    assert summary["complete"]
    assert len(list(tmp_path.glob("out/stages/*/"))) == 3


def test_a_file_counts_by_its_content(go: Go, fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("one")
    data = f"stages.tuned.recipe.data.0.path={file}"
    go(data)
    fake.ran.clear()
    moved = tmp_path / "moved.jsonl"
    shutil.copy(file, moved)
    go(f"stages.tuned.recipe.data.0.path={moved}")
    assert fake.ran == []
    file.write_text("two")
    go(data)
    assert fake.ran == ["tuned", "last"]


def test_a_failed_stage_leaves_the_others(go: Go, fake: Fake, tmp_path: Path) -> None:
    fake.failing["tuned"] = broken()
    with pytest.raises(RunFailure, match=r"`tuned` failed: the machine is on fire.*wait for it: `last`.*kept: `zero`"):
        go()
    assert fake.ran == ["zero", "tuned", "other"]
    folder = PipelineFolder.open(tmp_path / "out")
    found = {stage["name"]: stage["state"] for stage in status(folder)["stages"]}
    assert found == {"zero": "done", "tuned": "failed", "other": "done", "last": "waiting"}
    assert "on fire" in folder.report_path.read_text()
    fake.failing.clear()
    assert go()["complete"]
    assert fake.ran[3:] == ["tuned", "last"]


def test_an_engine_that_is_not_there_stops_it_at_once(go: Go, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str) -> None:
        assert name == "auto"
        raise UsageError("it needs a package")

    monkeypatch.setattr("rethink.kinds.pipeline.run.check_there", check)
    with pytest.raises(UsageError, match="needs a package"):
        go()
    assert fake.ran == []


def test_a_full_disk_stops_the_pipeline(go: Go, fake: Fake) -> None:
    fake.failing["tuned"] = StorageFailure("the disk is full")
    with pytest.raises(StorageFailure):
        go()
    assert fake.ran == ["zero", "tuned"]


def test_a_bug_is_recorded_and_not_hidden(go: Go, fake: Fake, tmp_path: Path) -> None:
    fake.failing["tuned"] = ZeroDivisionError("oops")
    with pytest.raises(ZeroDivisionError):
        go()
    stages = {stage["name"]: stage for stage in status(PipelineFolder.open(tmp_path / "out"))["stages"]}
    assert stages["tuned"]["error"] == "ZeroDivisionError: oops"


def test_time_of_attempts_that_were_killed_counts(go: Go, fake: Fake) -> None:
    """Nothing writes down when a process is killed; the stage itself knows the time of its steps."""
    fake.seconds["tuned"] = 5000.0
    seconds = {stage["name"]: stage["seconds"] for stage in go()["stages"]}
    assert seconds["tuned"] == 5000.0
    assert 0 < seconds["zero"] < 5000


def test_a_stopped_stage_stops_the_pipeline(go: Go, fake: Fake) -> None:
    fake.stopping.add("tuned")
    summary = go()
    assert not summary["finished"]
    assert states(summary)["tuned"] == "stopped"
    assert fake.ran == ["zero", "tuned"]
    fake.stopping.clear()
    assert go()["finished"]
    assert fake.ran[2:] == ["tuned", "other", "last"]


def test_parts_of_the_graph(go: Go, fake: Fake) -> None:
    go(until="tuned")
    assert fake.ran == ["zero", "tuned"]
    with pytest.raises(UsageError, match=r"no such stage. Did you mean `tuned`"):
        go(until="tunde")
    go(only="last")
    assert fake.ran == ["zero", "tuned", "last"]
    go("stages.zero.recipe.steps=7", first="other")
    assert fake.ran[3:] == ["other"]
    with pytest.raises(UsageError, match=r"`last` uses `tuned`, which is neither done nor selected"):
        go("stages.zero.recipe.steps=7", only="last")
    with pytest.raises(UsageError, match="does not use"):
        go(first="other", until="tuned")


def test_other_folders_are_left_alone(go: Go, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"`thesis.tex`"):
        go()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_pipeline_of_an_earlier_version_is_left_alone(go: Go, fake: Fake, tmp_path: Path) -> None:
    go()
    fake.ran.clear()
    header = tmp_path / "out" / "pipeline.json"
    write_sealed(header, (read_sealed(header) or {}) | {"format": 1})
    before = header.read_bytes()
    with pytest.raises(RunFolderError, match=r"an earlier version of Rethink began.*another --out"):
        go()
    assert fake.ran == []
    assert header.read_bytes() == before
    assert PipelineFolder.open(tmp_path / "out").records()  # it can still be looked at


def test_a_moved_pipeline_goes_on(go: Go, fake: Fake, tmp_path: Path) -> None:
    fake.stopping.add("last")
    go()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    fake.stopping.clear()
    assert go(out="elsewhere")["complete"]
    assert fake.recipes["last"].model.path.startswith(str(tmp_path / "elsewhere"))


def test_clean_removes_what_is_not_used_and_nothing_else(go: Go, fake: Fake, tmp_path: Path) -> None:
    go()
    go("stages.tuned.recipe.epochs=2")
    folder = PipelineFolder.open(tmp_path / "out")
    (tmp_path / "out" / "stages" / "stray").mkdir()
    assert sorted(item.path.name.split("-")[0] for item in cleanings(folder)) == ["last", "stray", "tuned"]
    with folder.lock():
        clean(folder)
    assert cleanings(folder) == []
    fake.ran.clear()
    assert set(states(go("stages.tuned.recipe.epochs=2")).values()) == {"kept"}
    go()
    assert fake.ran == ["tuned", "last"]


def test_lineage_of_models_and_samples(go: Go, tmp_path: Path) -> None:
    go(text=RECIPE + EVALUATION)
    folder = PipelineFolder.open(tmp_path / "out")
    model = next(tmp_path.glob("out/stages/last-*/model"))
    for wanted in ("last", str(model)):
        found = lineage(folder, wanted)
        assert found["made_by"]["stage"] == "last"
        assert [stage["stage"] for stage in found["from"]] == ["tuned", "zero"]
        assert "steps: 2" in found["made_by"]["recipe"]
    file = next(tmp_path.glob("out/stages/zero-*/")) / "samples.jsonl"
    file.write_text(json.dumps({"id": "abc", "question": "1 + 1?"}) + "\n")
    sample = lineage(folder, "abc")
    assert sample["sample"]["question"] == "1 + 1?"
    assert sample["made_by"]["stage"] == "zero"
    assert lineage(folder, "sum/2")["sample"]["question"] == "2 + 2?"
    with pytest.raises(UsageError, match="no stage of"):
        lineage(folder, "nothing")


def test_evaluations_comparisons_and_report(go: Go, fake: Fake, tmp_path: Path) -> None:
    summary = go(text=RECIPE + EVALUATION)
    assert fake.ran[:3] == ["eval-base", "zero", "eval-zero"]
    assert summary["results"]["base"]["accuracy"] == 0
    assert summary["results"]["last"]["accuracy"] == 0.75
    compared = json.loads((tmp_path / "out" / "comparisons.json").read_text())
    assert compared["reference"] == "zero"
    assert compared["paired"]["last"]["accuracy"]["difference"] == 0.5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "75.0 %" in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "+50.0" in page
    assert "6.5" in page
    section = page[page.index('id="aha"') : page.index('id="samples"')]
    words = re.sub(r"<[^>]*>|\s+", " ", section).split()
    assert "last 4 1 1 1 0 0 0" in " ".join(words), "completions, with a marker, checked, corrected, and the rest"
    assert section.count("1 + 1 = 3. Wait, 1 + 1 = 2") == 1, "the same passage once, though every model wrote it"


def test_views_show_each_change_once(go: Go, fake: Fake) -> None:
    lines = io.StringIO()
    go(progress=make_progress("lines", stream=lines))
    shown = [line for line in lines.getvalue().splitlines() if line.startswith("stage zero")]
    assert len(shown) == 2
    assert shown[1].startswith("stage zero (grpo) done in ")
    events = io.StringIO()
    go("seed=3", progress=make_progress("json", stream=events))
    rows = [json.loads(line) for line in events.getvalue().splitlines()]
    assert [(row["name"], row["state"]) for row in rows if row["event"] == "stage"][:2] == [
        ("zero", "running"),
        ("zero", "done"),
    ]
    live = io.StringIO()
    go("seed=4", progress=make_progress("live", stream=live))
    assert "✓ zero" in live.getvalue()
