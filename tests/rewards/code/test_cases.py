"""Cases from public bug reports about other graders, where they are beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.eval.benchmarks.problems import load_problems
from rethink.rewards.code.part import run
from rethink.rewards.code.problem_tests import read_tests
from rethink.rewards.code.program_text import extract_program
from rethink.rewards.sandbox.process import Limits
from tests.paths import SHARED_DATA
from tests.rewards.sandbox_needed import needs_sandbox


def cases(name: str) -> list[dict[str, Any]]:
    file = Path(SHARED_DATA) / "cases" / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_fences() -> None:
    assert [c["id"] for c in cases("code-fence") if extract_program(c["completion"]) != c["expected"]] == []


@needs_sandbox
def test_values() -> None:
    def passes(row: dict[str, Any]) -> bool | None:
        program, tests = extract_program(row["completion"]), read_tests(row, row["question"])
        assert program is not None
        assert tests is not None
        return run(program, tests, "required", Limits(wall_seconds=60.0)).passed

    assert [c["id"] for c in cases("code-by-value") if passes(c["row"]) is not bool(c["expected"])] == []


@needs_sandbox
def test_livecodebench(tmp_path: Path) -> None:
    benchmark, path, wrong = find_benchmark("livecodebench"), tmp_path / "rows.jsonl", []
    for case in cases("lcb-imports"):
        path.write_text(json.dumps(case["row"]) + "\n", "utf-8")
        (problem,) = load_problems(benchmark, path, None)
        if benchmark.grader.judge(problem, case["reply"]).score != case["expected"]:
            wrong.append(case["id"])
    assert wrong == []
