"""Every bit of what is written is covered: a change anywhere is noticed, or changes nothing that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.errors import RunFolderError
from rethink.store import contents
from rethink.store.completeness import lost_parts
from rethink.store.contents import check_contents
from rethink.store.integrity import INDEX, check_hash, check_index, read_sealed, write_index, write_sealed
from rethink.store.metrics_file import MetricsFile
from rethink.store.rollout_files import count_rows, read_rows, write_rows
from rethink.store.run_folder import RunFolder

VALUE: dict[str, Any] = {
    "steps": 12,
    "accuracy": 0.25,
    "name": "é\ud800",
    "nested": {"a": [1, None, True]},
    "3": (1, 2),
}


def flips(data: bytes, every: int = 1) -> list[bytes]:
    """The data with one bit flipped, for every so many bits."""
    found = []
    for bit in range(0, 8 * len(data), every):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        found.append(bytes(changed))
    return found


def unless_refused(read: Callable[[], Any], path: Path) -> Any:
    """What is read, or None where an error of ours names the file."""
    said = None
    try:
        return read()
    except RunFolderError as error:
        said = str(error)
    assert str(path) in said
    return None


def test_a_sealed_document_comes_back_and_every_bit_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, VALUE)
    value = read_sealed(path)
    assert value == VALUE | {"name": "é?", "3": [1, 2]}
    data = path.read_bytes()
    for changed in [*flips(data, 7), data[:-9], bytes(len(data)), b"", b"[]", b"[" * 9999]:
        path.write_bytes(changed)
        found = unless_refused(lambda: read_sealed(path) or {}, path)
        assert found in (None, value)
    assert read_sealed(tmp_path / "none.json") is None


def test_every_bit_of_a_parquet_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"problem": f"p{i}", "score": i / 7, "tokens": [i, i + 1]} for i in range(5)]
    write_rows(path, rows)
    assert read_rows(path) == rows
    data = path.read_bytes()
    noticed = 0
    for changed in [*flips(data, 41), data[:-1], data[: len(data) // 2], b"PAR1", bytes(len(data))]:
        path.write_bytes(changed)
        found = unless_refused(lambda: (read_rows(path), count_rows(path)), path)
        noticed += found is None
        assert found in (None, (rows, 5))
    assert noticed > 8 * len(data) // 41 * 0.9


def test_a_file_without_a_hash_is_read(tmp_path: Path) -> None:
    """Of an earlier version, or of somebody else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == [{"a": 1}, {"a": 2}]
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_sealed(tmp_path / "a.json") == {"a": 1}
    check_index(tmp_path)
    check_hash(tmp_path / "a.json")


def test_metrics_notice_each_flipped_bit(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(3):
        file.append({"step": step, "loss": np.float32(0.1) * step, "nan": float("nan")})
    right = repr(file.rows())
    data = file.path.read_bytes()
    for changed in flips(data, 5):
        file.path.write_bytes(changed)
        rows = unless_refused(file.rows, file.path)
        if rows is not None:
            assert right.startswith(repr(rows)[:-1])  # a last row that is damaged counts as torn
    file.path.write_bytes(b"".join(data.splitlines(keepends=True)[i] for i in (1, 0, 2)))
    with pytest.raises(RunFolderError, match="out of order"):
        file.rows()


def test_a_folder_s_index_names_what_is_damaged(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    write_index(tmp_path)
    check_index(tmp_path)
    (tmp_path / "b.bin").write_bytes(b"b.bim")
    with pytest.raises(RunFolderError, match=r"b\.bin` is damaged"):
        check_index(tmp_path)
    check_hash(tmp_path / "a.bin")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(RunFolderError, match=r"a\.bin` is missing"):
        check_index(tmp_path)
    (tmp_path / INDEX).write_text((tmp_path / INDEX).read_text()[:-20])
    with pytest.raises(RunFolderError, match=INDEX):
        check_index(tmp_path)


def test_a_large_file_of_a_folder_is_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash comes from the cache where it is as it was."""
    monkeypatch.setenv("RETHINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LARGE", 4)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "w.bin").write_bytes(b"weights")
    write_index(tmp_path / "a")
    check_contents(tmp_path / "a")
    (tmp_path / "a" / "w.bin").write_bytes(b"weighed")
    with pytest.raises(RunFolderError, match=r"w\.bin` is damaged.*delete checksums\.json"):
        check_contents(tmp_path / "a")
    (tmp_path / "a" / "w.bin").unlink()
    with pytest.raises(RunFolderError, match=r"w\.bin` is missing"):
        check_contents(tmp_path / "a")


@pytest.mark.parametrize(("kind", "folder"), [("eval", "evaluations"), ("samples", "drawn")])
def test_a_last_part_that_is_lost_is_said(tmp_path: Path, kind: str, folder: str) -> None:
    run = RunFolder.create(tmp_path / "run", recipe_yaml=f"kind: {kind}\n", recipe_hash="", environment={}, choices={})
    (run.path / folder).mkdir()
    (run.path / folder / "part-000000.jsonl").write_text("")
    run.write_summary({"finished": True, "parts": 3})
    assert any(f"{folder}` are lost: numbers 1, 2." in sentence for sentence in lost_parts(run))
    run.write_summary({"finished": False, "parts": 3})
    assert not any(folder in sentence for sentence in lost_parts(run))


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", recipe_yaml="steps: 4\n", recipe_hash="", environment={"a": 1}, choices={})
    for step in (0, 1, 4):
        run.append_metrics({"step": step, "batch": step} if step else {"step": 0, "eval/accuracy": 0.5})
    assert not any("metrics.jsonl" in sentence for sentence in lost_parts(run, 1))
    said = " ".join(lost_parts(run))
    assert "metrics.jsonl` are lost: those of steps 2, 3" in said
    assert "rollouts` are lost: batches 1, 4" in said
    assert "evaluations` are lost: those of steps 0" in said
    run.write_summary({"steps": 6, "finished": True, "best": {"step": 2}})
    (run.path / "environment.json").unlink()
    said = " ".join(lost_parts(run))
    assert "steps 2, 3, 5, 6" in said
    for name in ("model", "best", "environment.json"):
        assert f"{run.path / name}`" in said
