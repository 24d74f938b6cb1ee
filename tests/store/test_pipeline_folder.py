"""A pipeline's folder that was changed by hand: one error, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import RunFolderError
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.pipeline_folder import HEADER, PipelineFolder, StageRecord, disk_bytes


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"stages": []}', "{", '"stages"'])
def test_a_header_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / HEADER).write_text(text)
    with pytest.raises(RunFolderError, match=r"pipeline\.json`.*restore it from a copy"):
        PipelineFolder.open(tmp_path)


def test_a_folder_without_a_header_holds_no_pipeline(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunFolderError, match="holds no pipeline"):
            PipelineFolder.open(path)


def test_a_later_layout_is_refused(tmp_path: Path) -> None:
    PipelineFolder.create(tmp_path, {})
    PipelineFolder.open(tmp_path)
    write_sealed(tmp_path / HEADER, (read_sealed(tmp_path / HEADER) or {}) | {"format": 99})
    with pytest.raises(RunFolderError, match="later version"):
        PipelineFolder.open(tmp_path)


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    place = tmp_path / "pipeline"
    folder = PipelineFolder.create(place, {"git": {"commit": "c0ffee"}})
    zero = folder.write_record(StageRecord("zero", "grpo", "a" * 64, 1, "steps: 1\n", started="2026-01-02"))
    base = folder.write_record(StageRecord("base", "eval", "b" * 64, 2, "", inputs={"zero": "a"}, started="2026-01-01"))
    folder.update("a: 1\n", {"seed": 3}, {"zero": {"hash": zero.hash}})
    again = PipelineFolder.open(place)
    assert list(again.records().values()) == [base, zero]
    assert (again.recipe_yaml, again.facts, again.stages) == ("a: 1\n", {"seed": 3}, {"zero": {"hash": "a" * 64}})
    assert (again.environment, again.root) == ({"git": {"commit": "c0ffee"}}, str(place))
    assert (place / "recipe.yaml").read_text() == "a: 1\n"
    assert again.change(zero, state="done", seconds=1.5).seconds == 1.5
    assert again.records()[zero.hash].state == "done"


def test_a_stage_s_folder_goes_with_its_record(tmp_path: Path) -> None:
    folder = PipelineFolder.create(tmp_path / "pipeline", {})
    record = folder.write_record(StageRecord("zero", "grpo", "a" * 64, 1, ""))
    stage = folder.stage_path(record)
    assert stage.name == "zero-" + "a" * 12
    for path in (stage, stage.with_name("stray"), stage.with_name(".hidden")):
        path.mkdir()
    (stage / "inner").mkdir()
    (stage / "inner" / "a").write_bytes(bytes(10))
    assert disk_bytes(stage) == disk_bytes(stage / "inner" / "a") == 10
    assert folder.stray_folders() == [stage.with_name("stray")]
    folder.remove_stage(record)
    assert not stage.exists()
    assert folder.records() == {}
