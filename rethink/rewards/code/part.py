"""The built-in part `code`: 1 for a completion whose program passes every test of its problem, else 0."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rethink.rewards.builtin import PartContext
from rethink.rewards.code.problem_tests import Pairs, Tests, read_tests
from rethink.rewards.code.program_text import extract_program
from rethink.rewards.code.verdict import Verdict, judge
from rethink.rewards.outcome import CRASH, PartFailed, PartFunction
from rethink.rewards.sandbox.isolation import Choice
from rethink.rewards.sandbox.process import Limits
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure
from rethink.rewards.sandbox.warm_sandboxes import borrow, with_sandboxes
from rethink.types import Completion, Problem, Prompt


def make_code(
    context: PartContext,
    *,
    sandbox: Choice = "required",
    seconds: Annotated[float, Field(gt=0, le=600)] = 5.0,
    wall_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0,
    total_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0,
    memory_mb: Annotated[int, Field(ge=64)] = 512,
    output_mb: Annotated[float, Field(gt=0, le=256)] = 8.0,
) -> PartFunction:
    """The part `code`. Starts a sandbox at once, so that a machine without one is refused before anything slow starts.

    Args:
        context: not used: a program is found by its fence, not by the answer's rule.
        sandbox: `required`, or `unsafe-none` to run programs as this user, unprotected.
        seconds: processor time of one run (a pair of input and output; all assertions of a problem).
        wall_seconds: time on the clock of one run that hardly computes; eight times as long where it computes but must
            share the processor.
        total_seconds: time on the clock of all runs of a completion.
        memory_mb: address space of the program, MiB.
        output_mb: what it may write, or return at once, MiB.

    Raises:
        SandboxUnavailable: programs cannot be isolated here.
    """
    limits = Limits(seconds, wall_seconds, memory_mb << 20, output_bytes=int(output_mb * 2**20))
    check_isolation(sandbox)

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        tests = read_tests(problem.metadata, problem.question)
        if tests is None:
            return None
        program = extract_program(completion.text, prompt.prefill)
        if program is None:
            return 0.0
        passed = run(program, tests, sandbox, limits, total_seconds).passed
        return None if passed is None else float(passed)

    return score


def run(program: str, tests: Tests, sandbox: Choice, limits: Limits, total_seconds: float = 60.0) -> Verdict:
    """Judge a program in warm sandboxes. Safe to call from any thread.

    Raises:
        PartFailed: sandboxes broke twice.
        SandboxUnavailable: none can be started.
    """
    count = 1 if isinstance(tests, Pairs) else 2
    try:
        return with_sandboxes(sandbox, count, lambda taken: judge(program, tests, taken, limits, total_seconds))
    except SandboxFailure as failure:
        raise PartFailed(CRASH, f"the sandbox broke: {failure}") from failure


_PROBE = """
import os
def attempts():
    def tried(action):
        try:
            action()
        except Exception:
            return False
        return True
    import socket
    return {
        "read the host's files": tried(lambda: open(HERE).close()),
        "open a socket": tried(socket.socket),
        "start a process": tried(lambda: os.fork() or os._exit(0)),
        "signal a process": tried(lambda: os.kill(os.getppid(), 0)),
        "write a file": tried(lambda: open("/tmp-probe", "w").close()),
        "be root": os.getuid() == 0,
    }
found = sorted(name for name, done in attempts().items() if done)
print(", ".join(found) or "nothing")
"""


def check_isolation(sandbox: Choice) -> None:
    """Start a sandbox, and try in it what must not be possible.

    Raises:
        SandboxUnavailable: it does not start, or does not hold.
    """
    from rethink.rewards.code.verdict import run_script
    from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable

    with borrow(sandbox, 1) as (one,):
        if sandbox == "unsafe-none":
            return
        try:
            output, trouble = run_script(f"HERE = {__file__!r}\n{_PROBE}", "", one, Limits(wall_seconds=20.0))
        except SandboxFailure as failure:
            raise SandboxUnavailable(str(failure)) from None
    if trouble:
        raise SandboxUnavailable(f"a trial program did not run: {trouble}")
    if output.strip() != "nothing":
        raise SandboxUnavailable(f"a trial program in the sandbox was able to {output.strip()}")
