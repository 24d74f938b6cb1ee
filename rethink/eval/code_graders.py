"""Graders of the code benchmarks: they need the sandbox that runs what a model wrote."""

from __future__ import annotations

from rethink.errors import UsageError
from rethink.eval.benchmark import Grader, Verdict
from rethink.types import Problem


def _refuse() -> None:
    raise UsageError(
        "humaneval, mbpp and livecodebench run what the model writes, which needs a sandbox that this version does not "
        "have; leave them out of --bench"
    )


def _judge(problem: Problem, turn: str) -> Verdict:
    _refuse()
    raise AssertionError


HUMANEVAL = Grader("code: the problem's tests pass", _judge, None, _refuse)
MBPP = Grader("code: the problem's assertions hold", _judge, None, _refuse)
LIVECODEBENCH = Grader("code: every test's output is right", _judge, None, _refuse)
