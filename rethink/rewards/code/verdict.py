"""Whether a program passes its tests. The verdict is made here or in the tests' own sandbox, not where the program is.

asserts          program's sandbox ◄─ values ─► this process ◄─ values ─► tests' sandbox ─► verdict
stdin / stdout   program's sandbox ─► its output ─► compared here
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from rethink.rewards.code.problem_tests import Assertions, Pairs, Tests, defines
from rethink.rewards.sandbox.inside import wire
from rethink.rewards.sandbox.process import Job, Limits, Sandbox, pump, run_job, shorter

MAX_SOURCE = 200_000
"""Characters of a program; longer ones fail."""
MAX_SAID = 4096
"""Bytes of what a program that does not load says, which it may have written itself."""
MAX_NUMBER = 400
"""Characters of a number in an output that is compared by value."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests say of a program."""

    passed: bool | None
    """None: the tests themselves cannot be run, whatever the program."""
    why: str = ""
    """One line."""


def assemble(program: str, tests: Tests) -> str:
    """The source that is run: the program, after the code that it was asked to continue.

    A program that defines the entry point is complete, but may use what the prompt imports and defines.
    """
    if not isinstance(tests, Assertions) or not tests.prompt or tests.entry is None or "from __future__" in program:
        return program
    between = "\n\n" if defines(program, tests.entry) else "" if tests.prompt.endswith("\n") else "\n"
    return f"{tests.prompt}{between}{program}"


def judge(program: str, tests: Tests, sandboxes: Sequence[Sandbox], limits: Limits, total_seconds: float) -> Verdict:
    """Run a program against its tests.

    Args:
        program: its source, from `extract_program`.
        tests: from `read_tests`.
        sandboxes: two for assertions, one for pairs.
        limits: of one run: of one pair, or of all assertions.
        total_seconds: on the clock, for all pairs.

    Raises:
        SandboxFailure: a sandbox broke; nothing is known of the program.
    """
    if len(program) > MAX_SOURCE:
        return Verdict(False, f"the program is longer than {MAX_SOURCE} characters")
    source = assemble(program, tests)
    if isinstance(tests, Pairs):
        return _judge_pairs(source, tests, sandboxes[0], limits, time.monotonic() + total_seconds)
    return _judge_assertions(source, tests, sandboxes[0], sandboxes[1], limits)


def _judge_pairs(source: str, tests: Pairs, sandbox: Sandbox, limits: Limits, until: float) -> Verdict:
    for number, (given, expected) in enumerate(tests.pairs, 1):
        now = shorter(limits, until - time.monotonic())
        output, trouble = run_script(source, given, sandbox, now, tests.before)
        if trouble:
            return Verdict(False, f"test {number} of {len(tests.pairs)}: {trouble}")
        if not same_output(output, expected):
            return Verdict(False, f"test {number} of {len(tests.pairs)}: wrong output {output[:80]!r}")
    return Verdict(True)


def run_script(
    source: str, given: str, sandbox: Sandbox, limits: Limits, before: Sequence[str] = ()
) -> tuple[str, str]:
    """Run a program as a script. Gives its output, and what went wrong (empty: it ended with exit code 0).

    Args:
        source: the program.
        given: its standard input.
        sandbox: where.
        limits: of the run.
        before: sources whose names the program may use.

    Raises:
        SandboxFailure: the sandbox broke.
    """
    payload = {"source": source, "before": list(before)}
    job, output, in_time = run_job(sandbox, "script", payload, limits, given.encode("utf-8", "surrogatepass"))
    text = output.decode("utf-8", "replace")
    if not in_time:
        return text, f"took longer than {limits.wall_seconds:.3g} s"
    if len(output) > limits.output_bytes:
        return text, f"wrote more than {limits.output_bytes} bytes"
    if job.ended is None or job.ended.code != 0:
        said = job.error_text.decode("utf-8", "replace").strip().splitlines()
        how = job.ended.explain(limits) if job.ended else "killed"
        return text, how + (f": {said[-1][:200]}" if said else "")
    return text, ""


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs are the same: line by line without trailing white space and without empty lines at the end.

    Two lines are also the same where their words are, one by one, equal texts or decimal numbers of equal value
    (`1.0` and `1`; no tolerance).
    """
    ours, theirs = _lines(output), _lines(expected)
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").rstrip().split("\n")


def _same_line(ours: str, theirs: str) -> bool:
    if ours.rstrip() == theirs.rstrip():
        return True
    left, right = ours.split(), theirs.split()
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(ours: str, theirs: str) -> bool:
    if ours == theirs:
        return True
    if len(ours) > MAX_NUMBER or len(theirs) > MAX_NUMBER:
        return False
    try:
        left, right = Decimal(ours), Decimal(theirs)
    except InvalidOperation:
        return False
    return left.is_finite() and right.is_finite() and left == right


def _judge_assertions(
    source: str, tests: Assertions, for_program: Sandbox, for_tests: Sandbox, limits: Limits
) -> Verdict:
    program = for_program.start("program", {"source": source, "before": tests.before}, limits)
    try:
        payload = {"setup": tests.setup, "tests": tests.tests, "entry": tests.entry}
        asking = for_tests.start("tests", payload, limits)
        try:
            exchange = _Exchange(program, asking, limits)
            in_time = pump([program, asking], exchange.take, limits.wall_seconds)
        finally:
            asking.end()
    finally:
        program.end()
    known = exchange.verdict or exchange.not_loaded
    if known is not None:
        return known
    if not in_time:
        return Verdict(False, f"took longer than {limits.wall_seconds:g} s")
    for job, name in ((program, "the program"), (asking, "the tests")):
        if job in exchange.silent:
            return Verdict(False, f"{name} {job.ended.explain(limits) if job.ended else 'ended'}")
    return Verdict(False, "ended without a verdict")


class _Exchange:
    """Carries requests of the tests to the program and its replies back. It reads no value: lines pass as they are."""

    def __init__(self, program: Job, tests: Job, limits: Limits):
        self.program, self.tests, self.limits = program, tests, limits
        self.verdict: Verdict | None = None
        self.not_loaded: Verdict | None = None
        self.silent: list[Job] = []
        self._buffers = {program: bytearray(), tests: bytearray()}
        self._loaded = False
        self._asked = False
        self._requests: list[bytes] = []
        self._calls = 0

    def take(self, job: Job, data: bytes | None) -> bool:
        """Bytes of either side. True when the verdict is known or a side has ended."""
        if data is None:
            job.settle()
            self.silent.append(job)
            # The tests may have said all that they have to say before the program is loaded.
            if job is self.program:
                return self.not_loaded is None
            return b"\n" not in self._buffers[job]
        buffer = self._buffers[job]
        buffer += data
        if len(buffer) > self.limits.output_bytes:
            self.verdict = Verdict(False, f"sent more than {self.limits.output_bytes} bytes at once")
        while self.verdict is None and self._step():
            pass
        return self.verdict is not None or (self.tests in self.silent and not self._asked and self._loaded)

    def _step(self) -> bool:
        """Handle one line where its turn has come."""
        if not self._loaded:
            line = self._line(self.program)
            if line is None:
                return False
            self._loaded = True
            if line.strip() != b'{"loaded":true}':
                # The tests' first word decides whether it was to blame.
                self.not_loaded = Verdict(False, f"the program failed to load: {_said(line)}")
            return True
        if self._asked:
            line = self._line(self.program)
            if line is None:
                return False
            self._asked = False
            self.tests.write(self.tests.into, line)
            return True
        line = self._line(self.tests)
        if line is None:
            return False
        try:
            message = wire.loads(line)
            verdict, asks = message.get("verdict"), message.get("op") in ("call", "do")
        except (wire.Unreadable, AttributeError):
            self.verdict = Verdict(None, "the tests write to the descriptors of their runner")
            return True
        if verdict is not None:
            self.verdict = self._judged(message)
        elif self.not_loaded is not None:
            self.verdict = self.not_loaded
        else:
            self._calls += asks
            self._asked = True
            self.program.write(self.program.into, line)
        return True

    def _line(self, job: Job) -> bytes | None:
        buffer = self._buffers[job]
        end = buffer.find(b"\n") + 1
        if not end:
            return None
        line = bytes(buffer[:end])
        del buffer[:end]
        return line

    def _judged(self, message: Any) -> Verdict:
        why = str(message.get("why", ""))
        if message["verdict"] == "unfit":
            return Verdict(None, why)
        if message["verdict"] == "passed" and not self._calls:
            return Verdict(None, "the tests never call the program")
        return Verdict(message["verdict"] == "passed", why)


def _said(line: bytes) -> str:
    try:
        return str(wire.loads(line[:MAX_SAID])["failed"])[:300]
    except (wire.Unreadable, KeyError, TypeError):
        return "no word of why"
