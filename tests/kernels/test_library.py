"""The cache of compiled kernels: a library that another user could have put there is never loaded."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from rethink.errors import UsageError
from rethink.kernels.native import library


@pytest.mark.parametrize("spoiled", [".", "kernels", "kernels/avx2-KEY", "kernels/avx2-KEY/kernels.so"])
def test_a_planted_library_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    monkeypatch.setenv("RETHINK_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "_level", lambda *_: "avx2")
    monkeypatch.setattr(library.shutil, "which", lambda _: "/bin/true")
    loaded: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", loaded.append)
    monkeypatch.setattr(library, "_compile", lambda compiler, level, folder: (folder / "kernels.so").write_text("x"))
    library._load.__wrapped__("auto")
    (made,) = loaded
    path = tmp_path / spoiled.replace("avx2-KEY", Path(made).parent.name)
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(UsageError, match="RETHINK_CACHE"):
        library._load.__wrapped__("auto")
    assert loaded == [made]
