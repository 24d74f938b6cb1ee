"""A benchmark is one file: one outside the package is found, read, graded and listed; nothing else knows its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.eval.benchmarks.catalogue import benchmarks, find_benchmark
from rethink.eval.benchmarks.page import markdown


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parent / "outside")
    benchmarks.cache_clear()
    yield
    benchmarks.cache_clear()
    sys.modules.pop("toy_benchmark", None)


def test_it_is_asked_graded_and_listed(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert find_benchmark("Toy").title == "Toy"
    assert "| toy | toys/toy @ main, test | Pass@1 | 1 | toy words |" in markdown()
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text('{"ask": "a", "say": "x"}\n{"ask": "b", "say": "y"}\n')
    words = ["--data", f"toy={rows}", "--max-new-tokens", "2", "--out", str(out)]
    assert main(["eval", "--model", str(tiny_folder("llama")), "--bench", "toy", *words]) == 0
    (result,) = [json.loads(path.read_text()) for path in out.rglob("results.json")]
    assert (result["toy"]["n"], result["toy"]["k"]) == (2, 1)
