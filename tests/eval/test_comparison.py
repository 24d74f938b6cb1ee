"""Two evaluations side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError, UsageError
from rethink.eval.comparison import compare_folders
from rethink.eval.statistics.estimates import paired_comparison


def test_problem_by_problem(loader: Any, evaluate: Any, tmp_path: Path) -> None:
    evaluate(loader(lambda *_: "\\boxed{1}")[0], out=tmp_path / "a")
    evaluate(loader(lambda *_: "\\boxed{2}")[0], out=tmp_path / "b", limit=3)
    comparison = compare_folders(tmp_path / "a", tmp_path / "b")
    (of,) = comparison.benchmarks
    assert of.paired == paired_comparison([0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert (of.only_first, of.only_second) == (1, 0)
    assert [(d.problem_id, d.first, d.second, d.first_answer, d.second_answer) for d in of.differences] == [
        ("p1", 1.0, 0.0, "1", "2"),
        ("p2", 0.0, 1.0, "1", "2"),
    ]


def test_graded_means_use_the_sign_flip(loader: Any, evaluate: Any, tmp_path: Path) -> None:
    evaluate(loader(lambda _, sample: f"\\boxed{{{sample}}}")[0], out=tmp_path / "a", k=2)
    evaluate(loader(lambda *_: "\\boxed{1}")[0], out=tmp_path / "b", k=1)
    (of,) = compare_folders(tmp_path / "a", tmp_path / "b").benchmarks
    assert of.paired.method == "sign-flip"
    assert [(d.problem_id, d.first, d.second) for d in of.differences] == [("p0", 0.5, 0.0), ("p1", 0.5, 1.0)]


def test_refusals(loader: Any, evaluate: Any, questions: Path, tmp_path: Path) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    evaluate(load, out=tmp_path / "a")
    (tmp_path / "out").mkdir()
    (tmp_path / "a").rename(tmp_path / "out" / "a")
    with pytest.raises(RunFolderError, match=r"holds no evaluation.*below it: .*out/a"):
        compare_folders(tmp_path / "out", tmp_path / "out")
    a = tmp_path / "out" / "a"
    evaluate(load, bench=["math500"], out=tmp_path / "b")
    with pytest.raises(UsageError, match="no benchmark in common"):
        compare_folders(a, tmp_path / "b")
    questions.write_text(json.dumps({"id": "p1", "question": "Other?", "answer": "1"}) + "\n", "utf-8")
    evaluate(load, out=tmp_path / "c")
    with pytest.raises(UsageError, match="problem p1 of gsm8k is not the same"):
        compare_folders(a, tmp_path / "c")
    (a / "evaluation.json").write_text("{}")
    with pytest.raises(RunFolderError, match="cannot be read"):
        compare_folders(a, tmp_path / "c")
