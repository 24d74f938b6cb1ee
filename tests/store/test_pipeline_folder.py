"""A pipeline's folder that was changed by hand: one error, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.errors import RunFolderError
from rethink.store.pipeline_folder import HEADER, PipelineFolder


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", '{"stages": []}', "{", '"stages"'])
def test_a_header_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / HEADER).write_text(text)
    with pytest.raises(RunFolderError, match=r"pipeline\.json`.*restore it from a copy"):
        PipelineFolder.open(tmp_path)


def test_a_folder_without_a_header_holds_no_pipeline(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunFolderError, match="holds no pipeline"):
            PipelineFolder.open(path)
