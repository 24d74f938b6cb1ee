"""What is too long is found, whatever it is."""

from __future__ import annotations

from pathlib import Path

from dev.limits import over


def test_each_limit_is_seen(tmp_path: Path) -> None:
    package = tmp_path / "rethink"
    package.mkdir()
    (package / "wide.py").write_text("def wide(a, b, c, d, e, f, g, h): ...\n")
    (package / "fine.py").write_text("class A:\n    def seven(self, a, b, c, d, e, *, f, g): ...\n")
    (package / "deep.py").write_text("def deep():\n" + "    x = 1\n" * 60)
    (package / "long.cpp").write_text("\n" * 501)
    assert sorted(over(tmp_path)) == [
        ("rethink/deep.py deep", 61, 60),
        ("rethink/long.cpp", 501, 500),
        ("rethink/wide.py wide", 8, 7),
    ]
