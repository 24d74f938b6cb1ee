"""Old content or new content, never anything between: with a full disk, a refused write, and a kill at any moment."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rethink.errors import StorageFailure
from rethink.store import atomic


def contents(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, after: int = 0) -> None:
    """`os.write` writes `after` bytes in all, then the disk says `number`."""
    real, left = os.write, [after]

    def write(descriptor: int, data: bytes) -> int:
        if left[0] == 0:
            raise OSError(number, os.strerror(number))
        done = real(descriptor, bytes(data)[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", write)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_only_what_the_disk_refuses_is_a_storage_failure(tmp_path: Path) -> None:
    lost, full = FileNotFoundError(errno.ENOENT, "lost"), OSError(errno.ENOSPC, "full")
    assert atomic.storage_errno(lost) is None
    assert atomic.storage_errno(full) == errno.ENOSPC
    lost.__cause__ = full
    assert atomic.storage_errno(lost) == errno.ENOSPC
    assert atomic.storage_errno(RuntimeError("I/O error: File write failed")) == errno.ENOSPC
    with pytest.raises(FileNotFoundError), atomic.storage_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "lost")


class TestFiles:
    def test_replaces_content_and_leaves_nothing_beside(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        atomic.write_json(path, {"x": 1})
        atomic.write_json(path, {"x": "ü"})
        assert path.read_text() == '{\n  "x": "ü"\n}\n'
        assert contents(tmp_path) == ["a.json"]

    def test_writes_on_when_the_system_stops_early(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
        atomic.write_text(tmp_path / "a", "0123456789")
        assert (tmp_path / "a").read_text() == "0123456789"

    @pytest.mark.parametrize(
        ("number", "words"),
        [(errno.ENOSPC, "no space"), (errno.EDQUOT, "quota"), (errno.EACCES, "permission"), (errno.EROFS, "read-only")],
    )
    def test_a_refusal_keeps_the_old_content_and_says_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
    ) -> None:
        path = tmp_path / "a"
        atomic.write_text(path, "old")
        refuse(monkeypatch, number, after=2)
        with pytest.raises(StorageFailure, match=words) as caught:
            atomic.write_text(path, "new content")
        assert str(path) in str(caught.value)
        assert "--resume" in str(caught.value)
        assert path.read_text() == "old"
        assert contents(tmp_path) == ["a"]

    def test_a_refused_fsync_keeps_the_old_content(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a"
        atomic.write_text(path, "old")

        def fsync(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageFailure):
            atomic.write_text(path, "new")
        assert path.read_text() == "old"

    def test_other_errors_pass_through(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), atomic.storage_errors(tmp_path):
            raise KeyError("x")
        with pytest.raises(FileNotFoundError):
            atomic.write_text(tmp_path / "missing" / "a", "x")

    def test_content_is_on_disk_before_it_gets_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        real_fsync, real_replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda d: (calls.append("fsync"), real_fsync(d))[1])
        monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b))[1])
        atomic.write_text(tmp_path / "a", "x")
        assert calls == ["fsync", "replace", "fsync"]


def fill(text: str, size: int = 10):  # type: ignore[no-untyped-def]
    def write(folder: Path) -> None:
        (folder / "one").write_text(text * size)
        (folder / "deep").mkdir()
        (folder / "deep" / "two").write_text(text)

    return write


class TestFolders:
    @pytest.mark.parametrize("can_exchange", [True, False])
    def test_replaces_a_folder_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
        if not can_exchange:
            monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
        path = tmp_path / "model"
        atomic.write_folder(path, fill("a"))
        (path / "extra").write_text("only in the old one")
        atomic.write_folder(path, fill("b"))
        assert (path / "deep" / "two").read_text() == "b"
        assert contents(path) == ["deep", "one"]
        assert contents(tmp_path) == ["model"]

    def test_this_system_can_exchange(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / name).touch()
        kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
        mounted = next(kinds[str(p)] for p in tmp_path.resolve().parents if str(p) in kinds)
        if mounted not in ("ext4", "xfs", "btrfs", "tmpfs"):
            pytest.skip(f"it is not known whether a file system of the kind {mounted} can exchange folders")
        assert atomic._exchange(tmp_path / "a", tmp_path / "b")
        assert contents(tmp_path / "a") == ["b"]

    def test_a_writer_that_fails_leaves_the_old_folder(self, tmp_path: Path) -> None:
        path = tmp_path / "model"
        atomic.write_folder(path, fill("a"))

        def write(folder: Path) -> None:
            (folder / "one").write_text("half")
            raise RuntimeError("boom")

        with pytest.raises(RuntimeError, match="boom"):
            atomic.write_folder(path, write)
        assert (path / "one").read_text() == "a" * 10
        assert contents(tmp_path) == ["model"]

    def test_a_full_disk_leaves_the_old_folder(self, small_disk: Path) -> None:
        path = small_disk / "model"
        atomic.write_folder(path, fill("a"))
        with pytest.raises(StorageFailure, match="no space is left on the device"):
            atomic.write_folder(path, fill("b", 10**6))
        assert (path / "one").read_text() == "a" * 10
        assert contents(small_disk) == ["model"]
        atomic.write_folder(path, fill("c"))  # and the space of the attempt is free again
        assert (path / "one").read_text() == "c" * 10

    @pytest.mark.parametrize("kind", ["torch", "safetensors"])
    def test_writers_that_lose_the_errno_are_understood(self, small_disk: Path, kind: str) -> None:
        torch = pytest.importorskip("torch")
        from safetensors.torch import save_file

        def write(folder: Path) -> None:
            tensor = torch.zeros(10**6)
            if kind == "torch":
                torch.save(tensor, folder / "t.pt")
            else:
                save_file({"t": tensor}, folder / "t.safetensors")

        with pytest.raises(StorageFailure, match="no space"):
            atomic.write_folder(small_disk / "model", write)

    def test_leftovers_are_swept_and_only_they(self, tmp_path: Path) -> None:
        (tmp_path / f".model{atomic.TEMPORARY}1234").mkdir()
        (tmp_path / f".a.json{atomic.TEMPORARY}1234").touch()
        (tmp_path / ".hidden").touch()
        (tmp_path / "model").mkdir()
        atomic.clean_leftovers(tmp_path)
        assert contents(tmp_path) == [".hidden", "model"]

    def test_a_replacement_killed_between_its_renames_is_finished(self, tmp_path: Path) -> None:
        atomic.write_folder(tmp_path / f".model{atomic.PROMOTED}12", fill("new"))
        atomic.clean_leftovers(tmp_path)
        assert (tmp_path / "model" / "deep" / "two").read_text() == "new"

    def test_a_finished_replacement_takes_the_place_of_the_old_folder(self, tmp_path: Path) -> None:
        """Killed before the old one was moved away: the new one is complete, and it is what was to be there."""
        atomic.write_folder(tmp_path / "model", fill("old"))
        (tmp_path / "model" / "extra").touch()
        atomic.write_folder(tmp_path / f".model{atomic.PROMOTED}12", fill("new"))
        atomic.clean_leftovers(tmp_path)
        assert (tmp_path / "model" / "deep" / "two").read_text() == "new"
        assert contents(tmp_path / "model") == ["deep", "one"]
        assert contents(tmp_path) == ["model"]


KILLED = """
import sys
from pathlib import Path
from rethink.store import atomic
root = Path(sys.argv[1])
if sys.argv[2] == "no-exchange":
    atomic._exchange = lambda first, second: False
def write(folder):
    for name in ("one", "two", "three"):
        (folder / name).write_text(str(number) * 2000)
number = 0
while True:
    number += 1
    atomic.write_text(root / "file", str(number) * 2000)
    atomic.write_folder(root / "folder", write)
    if number == 1:
        print("going", flush=True)
"""


@pytest.mark.parametrize("mode", ["exchange", "no-exchange"])
def test_a_kill_at_any_moment_leaves_old_or_new(tmp_path: Path, mode: str) -> None:
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), mode], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        atomic.clean_leftovers(tmp_path)
        assert contents(tmp_path) == ["file", "folder"]
        text = (tmp_path / "file").read_text()
        assert text == text[: len(text) // 2000] * 2000
        parts = {(tmp_path / "folder" / name).read_text() for name in ("one", "two", "three")}
        assert len(parts) == 1
