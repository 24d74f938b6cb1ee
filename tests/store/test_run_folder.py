"""A run's folder: made once, locked by one, read by all, and never half of anything."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError, StorageFailure
from rethink.store.as_trained import AsTrained, read_as_trained
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.run_folder import RunFolder

RECORD = AsTrained(kind="grpo", recipe="test", recipe_hash="abc123")


def make(path: Path, recipe_hash: str = "abc123") -> RunFolder:
    return RunFolder.create(
        path,
        recipe_yaml="name: test\n",
        recipe_hash=recipe_hash,
        environment={"python": "3.11"},
        choices={"dtype": "bfloat16", "threads": 2},
    )


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)


class TestCreateAndOpen:
    def test_what_was_recorded_comes_back(self, tmp_path: Path) -> None:
        make(tmp_path / "deep" / "run")
        folder = RunFolder.open(tmp_path / "deep" / "run")
        assert folder.recipe_yaml == "name: test\n"
        assert folder.recipe_hash == "abc123"
        assert folder.choices == {"dtype": "bfloat16", "threads": 2}
        assert folder.environment == {"python": "3.11"}
        assert (folder.path / "recipe.yaml").read_text() == "name: test\n"

    def test_exists(self, tmp_path: Path) -> None:
        assert not RunFolder.exists(tmp_path / "none")
        assert not RunFolder.exists(tmp_path)
        make(tmp_path)
        assert RunFolder.exists(tmp_path)

    def test_a_run_is_not_overwritten(self, tmp_path: Path) -> None:
        make(tmp_path)
        with pytest.raises(RunFolderError, match=r"already holds a run.*--resume.*--out.*delete"):
            make(tmp_path, "other")
        assert RunFolder.open(tmp_path).recipe_hash == "abc123"

    def test_other_files_are_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text("mine")
        with pytest.raises(RunFolderError, match=r"not empty.*recipe\.yaml"):
            make(tmp_path)
        assert (tmp_path / "recipe.yaml").read_text() == "mine"
        with pytest.raises(RunFolderError, match="is a file"):
            make(tmp_path / "recipe.yaml")

    def test_a_start_that_was_killed_can_be_repeated(self, tmp_path: Path) -> None:
        make(tmp_path)
        (tmp_path / "run.json").unlink()  # the last file written
        (tmp_path / ".run.json.tmp-12").touch()
        assert not RunFolder.exists(tmp_path)
        make(tmp_path)
        assert RunFolder.exists(tmp_path)

    def test_a_folder_that_is_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match="holds no run"):
            RunFolder.open(tmp_path)
        (tmp_path / "run.json").write_text("{")
        with pytest.raises(RunFolderError, match="not JSON"):
            RunFolder.open(tmp_path)

    def test_a_later_layout_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path)
        write_sealed(tmp_path / "run.json", (read_sealed(tmp_path / "run.json") or {}) | {"format": 99})
        with pytest.raises(RunFolderError, match="later version"):
            RunFolder.open(tmp_path)

    def test_extend_keeps_the_earlier_hash(self, tmp_path: Path) -> None:
        make(tmp_path).extend("name: test\nsteps: 9\n", "def456")
        folder = RunFolder.open(tmp_path)
        assert folder.recipe_hash == "def456"
        assert folder.recipe_yaml == "name: test\nsteps: 9\n"
        assert folder.choices["threads"] == 2
        assert '"earlier_recipe_hashes": [\n    "abc123"\n  ]' in (tmp_path / "run.json").read_text()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(StorageFailure, match="permission"):
            make(tmp_path / "run")


HOLD = """
import sys, time
from rethink.store.run_folder import RunFolder
with RunFolder.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""
TRY = """
import sys
from rethink.errors import RunFolderError
from rethink.store.run_folder import RunFolder
try:
    with RunFolder.open(sys.argv[1]).lock():
        print("got it")
except RunFolderError as error:
    print(error)
"""


class TestLock:
    def test_one_process_writes(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        with folder.lock():
            assert f"another process (id {os.getpid()}) is writing" in run_python(TRY, str(tmp_path)).stdout
            with pytest.raises(RunFolderError, match="already writes"), RunFolder.open(tmp_path).lock():
                pass
            # The failed attempts took nothing away.
            assert "another process" in run_python(TRY, str(tmp_path)).stdout
        assert run_python(TRY, str(tmp_path)).stdout == "got it\n"

    def test_a_killed_process_leaves_no_lock(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match="another process"), folder.lock():
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with folder.lock():
            pass

    def test_the_writer_sweeps_and_a_reader_does_not(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        folder.save_checkpoint(1, lambda target: None)
        leftover = tmp_path / "checkpoints" / ".step-000002.tmp-12"
        leftover.mkdir()
        assert RunFolder.open(tmp_path).latest_checkpoint() == (1, tmp_path / "checkpoints" / "step-000001")
        assert leftover.exists()
        with folder.lock():
            assert not leftover.exists()


class TestMetrics:
    def test_rows_come_back(self, tmp_path: Path) -> None:
        np = pytest.importorskip("numpy")
        folder = make(tmp_path)
        assert folder.metrics() == []
        folder.append_metrics({"step": 0, "eval/accuracy": 0.125})
        folder.append_metrics({"step": 1, "reward/mean": np.float64(0.1), "x": float("inf"), "batch": np.int64(1)})
        rows = RunFolder.open(tmp_path).metrics()
        assert rows == [
            {"step": 0, "eval/accuracy": 0.125},
            {"step": 1, "reward/mean": 0.1, "x": float("inf"), "batch": 1},
        ]

    def test_what_is_not_finite_stays_valid_json(self, tmp_path: Path) -> None:
        import json
        import math

        folder = make(tmp_path)
        folder.append_metrics({"step": 1, "loss": float("nan")})

        def refuse(name: str) -> float:
            raise AssertionError(name)

        json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
        assert math.isnan(folder.metrics()[0]["loss"])

    @pytest.mark.parametrize("step", [4, 5])
    def test_a_step_is_there_once(self, tmp_path: Path, step: int) -> None:
        make(tmp_path).append_metrics({"step": 5})
        with pytest.raises(ValueError, match="hold step 5"):
            RunFolder.open(tmp_path).append_metrics({"step": step})
        assert [row["step"] for row in RunFolder.open(tmp_path).metrics()] == [5]

    @pytest.mark.parametrize("torn", [b'{"step": 2, "re', b'{"step": 2}', b"\0\0\0\0", b"\n"])
    def test_a_torn_line_is_ignored_and_cut_off(self, tmp_path: Path, torn: bytes) -> None:
        folder = make(tmp_path)
        folder.append_metrics({"step": 1})
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(torn)
        assert RunFolder.open(tmp_path).metrics() == [{"step": 1}]
        folder.append_metrics({"step": 2, "a": 1})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]

    def test_the_lock_repairs(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
        with folder.lock():
            assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'

    def test_damage_in_the_middle_is_named(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
        with pytest.raises(RunFolderError, match="line 2"):
            folder.metrics()

    def test_drop_after(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        for step in range(5):
            folder.append_metrics({"step": step, "nan": float("nan")})
        folder.drop_metrics_after(2)
        assert [row["step"] for row in folder.metrics()] == [0, 1, 2]
        folder.append_metrics({"step": 3})
        assert [row["step"] for row in RunFolder.open(tmp_path).metrics()] == [0, 1, 2, 3]

    def test_a_full_disk_leaves_whole_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = make(tmp_path)
        folder.append_metrics({"step": 1})
        real, calls = os.write, [0]

        def write(descriptor: int, data: bytes) -> int:
            calls[0] += 1
            if calls[0] == 2:
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, bytes(data)[:5])

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(StorageFailure, match="no space"):
            folder.append_metrics({"step": 2})
        monkeypatch.undo()
        (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert json.loads(line)["step"] == 1
        folder.append_metrics({"step": 2})
        assert len(folder.metrics()) == 2


def text_writer(text: str) -> Any:
    return lambda folder: (folder / "state").write_text(text)


class TestCheckpoints:
    def test_the_last_two_are_kept(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        assert folder.latest_checkpoint() is None
        for step in (5, 10, 15):
            folder.save_checkpoint(step, text_writer(str(step)))
        assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-000010", "step-000015"]
        latest = folder.latest_checkpoint()
        assert latest is not None
        assert (latest[0], (latest[1] / "state").read_text()) == (15, "15")

    def test_a_checkpoint_can_be_made_again(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        folder.save_checkpoint(5, text_writer("a"))
        folder.save_checkpoint(5, text_writer("b"), keep=1)
        assert (tmp_path / "checkpoints" / "step-000005" / "state").read_text() == "b"

    def test_steps_beyond_six_digits_sort_by_number(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        for step in (999_999, 1_000_000):
            folder.save_checkpoint(step, text_writer("x"))
        latest = folder.latest_checkpoint()
        assert latest is not None
        assert latest[0] == 1_000_000

    def test_a_failed_one_leaves_the_earlier(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        folder.save_checkpoint(5, text_writer("a"))

        def write(target: Path) -> None:
            (target / "state").write_text("half")
            raise OSError(errno.ENOSPC, "full")

        with pytest.raises(StorageFailure, match=r"no space.*untouched.*--resume"):
            folder.save_checkpoint(10, write)
        assert os.listdir(tmp_path / "checkpoints") == ["step-000005"]


class TestModelsAndSummary:
    def test_model_is_replaced_whole(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        folder.export_model(text_writer("a"), RECORD)
        assert (folder.export_model(text_writer("b"), RECORD) / "state").read_text() == "b"
        assert read_as_trained(folder.model_path) == RECORD

    def test_best_carries_its_step(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        assert folder.best() is None
        folder.best_model(text_writer("a"), RECORD, {"step": 20, "accuracy": 0.75})
        assert folder.best() == {"step": 20, "accuracy": 0.75}
        write_sealed(folder.best_path / "rethink.json", {"step": 4})  # as an earlier version wrote it
        assert folder.best() == {"step": 4}
        assert (folder.best_path / "state").read_text() == "a"

    def test_summary(self, tmp_path: Path) -> None:
        folder = make(tmp_path)
        assert folder.read_summary() is None
        folder.write_summary({"before": {"n": 200}})
        assert folder.read_summary() == {"before": {"n": 200}}
        (tmp_path / "summary.json").write_text("{")
        with pytest.raises(RunFolderError, match="not JSON"):
            folder.read_summary()
