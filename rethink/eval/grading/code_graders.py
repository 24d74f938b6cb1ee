"""Graders of the code benchmarks: the program that was found is run against its tests in the sandbox."""

from __future__ import annotations

from rethink.eval.benchmark import Grader, Verdict
from rethink.eval.grading.stated_answer import spoken
from rethink.rewards.code.part import check_isolation, run
from rethink.rewards.code.problem_tests import read_tests
from rethink.rewards.code.program_text import extract_program
from rethink.rewards.sandbox.process import Limits
from rethink.types import Problem

LIMITS = Limits(cpu_seconds=10.0, wall_seconds=20.0, memory_bytes=1 << 30)
"""Of one run: LiveCodeBench gives a test 6 s; twice that covers a slower processor."""
TOTAL_SECONDS = 120.0
"""On the clock, for all tests of one completion."""


def _judge(problem: Problem, turn: str) -> Verdict:
    program = None if spoken(turn) is None else extract_program(turn)
    if program is None:
        return Verdict(None, 0.0)
    tests = read_tests(problem.metadata, problem.question)
    if tests is None:
        return Verdict(program, None)
    said = run(program, tests, "required", LIMITS, TOTAL_SECONDS)
    return Verdict(program, None if said.passed is None else float(said.passed), {"why": said.why})


def _check() -> None:
    check_isolation("required")


HUMANEVAL = Grader("code: the problem's tests pass, in a sandbox", _judge, None, _check, threads=True)
MBPP = Grader("code: the problem's assertions hold, in a sandbox", _judge, None, _check, threads=True)
LIVECODEBENCH = Grader("code: every test's output is right, in a sandbox", _judge, None, _check, threads=True)
