"""What is in the cache runs as code: nothing is taken from where another user could have put it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.errors import UsageError
from rethink.store.cache import cached_entry, cached_folder


def build(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "code.so").write_text("ours")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "kernels"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_what_is_made_is_found_again_whatever_the_umask(root: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = cached_folder(root, "key", build)
    finally:
        os.umask(before)
    assert cached_entry(root, "key") == made == root / "key"
    assert cached_folder(root, "key", lambda _: pytest.fail("made twice")) == made
    assert root.stat().st_mode & 0o777 == 0o700
    assert root.parent.stat().st_mode & 0o777 == 0o700
    assert not any(path.stat().st_mode & 0o022 for path in (made, *made.rglob("*")))


def spoil_root(root: Path) -> None:
    root.chmod(0o777)


def spoil_group(root: Path) -> None:
    root.chmod(0o770)


def spoil_sticky(root: Path) -> None:
    root.chmod(0o1777)


def spoil_above(root: Path) -> None:
    root.parent.chmod(0o777)


def spoil_entry(root: Path) -> None:
    (root / "key").chmod(0o775)


def spoil_inner(root: Path) -> None:
    (root / "key" / "inner").chmod(0o757)


def spoil_file(root: Path) -> None:
    (root / "key" / "inner" / "code.so").chmod(0o646)


def spoil_link(root: Path) -> None:
    path = root / "key" / "inner" / "code.so"
    path.unlink()
    path.symlink_to("/bin/true")


SPOILERS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_what_others_may_write_is_refused(root: Path, spoil: Callable[[Path], None]) -> None:
    cached_folder(root, "key", build)
    spoil(root)
    with pytest.raises(UsageError, match=r"RETHINK_CACHE to your own folder"):
        cached_entry(root, "key")
    with pytest.raises(UsageError, match=r"RETHINK_CACHE to your own folder"):
        cached_folder(root, "key", build)


@pytest.mark.parametrize("spoil", [spoil_root, spoil_group, spoil_above])
def test_nothing_is_made_where_others_may_write(root: Path, spoil: Callable[[Path], None]) -> None:
    root.mkdir(parents=True)
    spoil(root)
    with pytest.raises(UsageError, match=r"not safe: .* may be written by other users .*chmod go-w"):
        cached_folder(root, "key", lambda _: pytest.fail("made"))


@pytest.mark.parametrize("what", ["", "key", "key/inner/code.so"])
def test_what_belongs_to_others_is_refused(root: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_folder(root, "key", build)
    if os.geteuid() == 0:
        os.chown(root / what, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match=r"belongs to another user \(uid"):
        cached_entry(root, "key")


def test_a_cache_below_a_folder_like_tmp_is_fine(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    assert cached_folder(tmp_path / "shared" / "mine", "key", build).is_dir()
