"""The code benchmarks: programs that are right, wrong, and hostile, through the sandbox."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.eval.benchmarks.problems import load_problems
from tests.paths import SHARED_DATA
from tests.rewards.sandbox_needed import needs_sandbox

pytestmark = needs_sandbox


def score(name: str, row: dict[str, Any], program: str, tmp_path: Path) -> float | None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    benchmark = find_benchmark(name)
    (problem,) = load_problems(benchmark, path, None)
    return benchmark.grader.judge(problem, f"<think>hm</think>Here:\n```python\n{program}\n```").score


HUMANEVAL = {
    "task_id": "t/0",
    "prompt": "def double(x: int) -> int:\n    '''Twice x.'''\n",
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
MBPP = {
    "task_id": 1,
    "prompt": "Write a function to double.",
    "test_list": ["assert double(3) == 6"],
    "test_imports": [],
}
SETUP = {"test_setup_code": "four = double(2)", "test_list": ["assert double(four) == 8"]}
PRIVATE = [{"input": "5\n", "output": "10\n", "testtype": "stdin"}]
STDIN = {
    "question_id": "a",
    "question_content": "Print twice the number.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(json.dumps(PRIVATE)))).decode(),
}
FUNCTIONAL = {
    "question_id": "b",
    "question_content": "Double.",
    "starter_code": "class Solution:\n    def double(self, x: int) -> int:\n",
    "metadata": json.dumps({"func_name": "double"}),
    "public_test_cases": json.dumps([{"input": "2", "output": "4", "testtype": "functional"}]),
}


@pytest.mark.parametrize(
    ("name", "row", "program", "expected"),
    [
        ("humaneval", HUMANEVAL, "def double(x):\n    return 2 * x", 1.0),
        ("humaneval", HUMANEVAL, "    return 2 * x", 1.0),
        ("humaneval", HUMANEVAL, "def double(x):\n    return 4", 0.0),
        ("humaneval", HUMANEVAL, "import os\nos._exit(0)", 0.0),
        ("mbpp", MBPP, "def double(x):\n    return x + x", 1.0),
        ("mbpp", MBPP, "def double(x):\n    return x", 0.0),
        ("mbpp", MBPP | SETUP, "def double(x):\n    return x + x", 1.0),
        ("mbpp", MBPP | SETUP, "def double(x):\n    return 6", 0.0),
        ("livecodebench", STDIN, "print(2 * int(input()))", 1.0),
        ("livecodebench", STDIN, "print(4)", 0.0),  # right on the public test alone
        ("livecodebench", FUNCTIONAL, "class Solution:\n    def double(self, x):\n        return 2 * x", 1.0),
        (
            "livecodebench",
            FUNCTIONAL,
            "class Solution:\n    def double(self, x: List[int]):\n        return 2 * x",
            1.0,
        ),
        ("livecodebench", FUNCTIONAL, "class Solution:\n    def double(self, x):\n        return x", 0.0),
    ],
)
def test_programs(name: str, row: dict[str, Any], program: str, expected: float, tmp_path: Path) -> None:
    assert score(name, row, program, tmp_path) == expected


def test_no_program_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(HUMANEVAL) + "\n", "utf-8")
    benchmark = find_benchmark("humaneval")
    (problem,) = load_problems(benchmark, path, None)
    for turn in ("", "<think>```python\ndef double(x):\n    return 2 * x\n```"):
        verdict = benchmark.grader.judge(problem, turn)
        assert (verdict.answer, verdict.score) == (None, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), [("humaneval", "humaneval"), ("mbpp", "mbpp_sanitized")])
def test_reference_solutions_pass(name: str, file: str) -> None:
    path = SHARED_DATA / "sets" / f"{file}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    benchmark = find_benchmark(name)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][:40]
    for row, problem in zip(rows, load_problems(benchmark, path, 40), strict=True):
        solution = (row["prompt"] if name == "humaneval" else "") + row["answer"]
        assert benchmark.grader.judge(problem, f"```python\n{solution}\n```").score == 1.0, row["id"]
