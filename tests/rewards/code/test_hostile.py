"""Hostile programs: each is contained, and each scores 0."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from rethink.rewards.code.part import run
from rethink.rewards.code.problem_tests import Assertions, Pairs, read_tests
from rethink.rewards.code.verdict import Verdict
from rethink.rewards.sandbox.process import Limits
from rethink.rewards.sandbox.warm_sandboxes import close_all
from tests.rewards.code.hostile import ATTACKS, EXHAUSTION, FORGERIES, LENGTHY, SECRET, attack_program
from tests.rewards.sandbox_needed import children, needs_sandbox

CHECK = """
SECRET = 31337
def check(candidate):
    assert candidate(2) == 4
    assert abs(candidate(3) - 9) < 1e-9
    assert all(map(lambda x: candidate(x) == x * x, [4, 5, 6]))
"""
LOOSE = {
    # Weaker forms, in which tests are often written; each is a way in for some lie.
    "all of map": "def check(candidate):\n    assert all(map(lambda x: candidate(x) == x * x, [4, 5, 6]))",
    "sum of a generator": "def check(candidate):\n    assert sum(candidate(x) == x * x for x in (4, 5, 6)) == 3",
    "reversed": "def check(candidate):\n    assert 16 == candidate(4)",
    "near": "def check(candidate):\n    assert abs(candidate(4) - 16) < 1e-6",
    "in a tuple": "def check(candidate):\n    assert (candidate(4), candidate(5)) == (16, 25)",
    "in a list": "def check(candidate):\n    assert [candidate(x) for x in (4, 5)] == [16, 25]",
    "one of": "def check(candidate):\n    assert candidate(4) in (16, 16.0)",
    "as a key": "def check(candidate):\n    assert {candidate(4): 1} == {16: 1}",
}
FAST = Limits(cpu_seconds=1.0, wall_seconds=30.0, memory_bytes=256 << 20, output_bytes=1 << 20)
SHORT = Limits(cpu_seconds=1.0, wall_seconds=0.8, memory_bytes=256 << 20, output_bytes=1 << 20)

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """What the programs go for: a file, two listening sockets, a secret in the environment."""
    file = tmp_path_factory.mktemp("host") / "file.txt"
    file.write_text("the host's")
    name = f"rethink-test-{os.getpid()}"
    previous = os.environ.get(SECRET)
    os.environ[SECRET] = "secret"
    close_all()  # sandboxes from before the secret would prove nothing
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        yield {"host_file": file, "port": tcp.getsockname()[1], "unix": name}
    assert file.read_text() == "the host's"
    if previous is None:
        del os.environ[SECRET]


def judged(program: str, test: str = CHECK, limits: Limits = FAST) -> Verdict:
    tests = read_tests({"test": test, "entry_point": "solve"})
    assert isinstance(tests, Assertions)
    return run(program, tests, "required", limits)


def test_honest_programs_pass() -> None:
    assert judged("def solve(x): return x * x").passed is True
    for test in LOOSE.values():
        assert judged("def solve(x): return x * x", test).passed is True
    winner = attack_program("return True")
    assert judged(winner).passed is True  # so a score of 0 below means that the attack failed


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gets_nothing(name: str, surroundings: dict[str, object]) -> None:
    verdict = judged(attack_program(ATTACKS[name], **surroundings))
    assert verdict.passed is False, verdict


@pytest.mark.parametrize("name", FORGERIES)
def test_a_verdict_cannot_be_forged(name: str) -> None:
    program = dedent(FORGERIES[name])
    for test in (CHECK, *LOOSE.values()):
        verdict = judged(program, test)
        assert verdict.passed is False, (test, verdict)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LENGTHY)) for n in EXHAUSTION])
def test_nothing_is_exhausted(name: str) -> None:
    before = psutil.Process().memory_info().rss
    verdict = judged(dedent(EXHAUSTION[name]), limits=SHORT)
    assert verdict.passed is False, verdict
    assert psutil.Process().memory_info().rss - before < 100 << 20
    assert judged("def solve(x): return x * x").passed is True  # and the next one finds things in order


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: print('x' * 100)", "wrote more than|longer than"),
        ("import sys\nwhile True: sys.stderr.write('x' * 100000)", "Broken|exit code|processor time|longer than"),
        ("import time; print(9); sys.stdout.flush(); time.sleep(100)", "NameError|longer than"),
        ("import time; print(9, flush=True); time.sleep(100)", "longer than"),
        ("import os; print(9, flush=True); os.closerange(0, 9)\nwhile True: pass", "processor time|longer than"),
        ("print(9); raise SystemExit(1)", "exit code 1"),
        ("print(9); 1 / 0", "ZeroDivisionError"),
        ("import os; print(9, flush=True); os.abort()", "killed by"),
        ("import os; os._exit(0)", "wrong output"),
        ("print(open(0).read())", "wrong output"),
        ("import os; [os.write(fd, b'9') for fd in range(2, 64)]", "Bad file"),
        ("", "wrong output"),
    ],
)
def test_scripts_that_cheat(program: str, why: str) -> None:
    limits = SHORT if "while True" in program or "sleep(" in program else FAST
    verdict = run(program, Pairs((("3\n", "9\n"),)), "required", limits)
    assert verdict.passed is False
    assert re.search(why, verdict.why), verdict


def test_nothing_is_left_behind() -> None:
    close_all()
    before = children()
    judged("import time\ndef solve(x): time.sleep(1000)", limits=Limits(wall_seconds=0.5))
    assert children() > before
    close_all()
    assert children() <= before


def test_attacks_can_succeed(surroundings: dict[str, object], tmp_path: Path) -> None:
    """Without walls they do: so it is the walls that the tests above test."""
    tests = read_tests({"test": CHECK, "entry_point": "solve"})
    assert tests is not None
    for name in ("read /etc/passwd", "list the root", "read a file of the host", "connect to the host", "fork", "udp"):
        program = attack_program(ATTACKS[name], **surroundings)
        assert run(program, tests, "unsafe-none", FAST).passed is True, name
    leaks = attack_program(ATTACKS["environment"], **surroundings)
    assert run(leaks, tests, "unsafe-none", FAST).passed is False  # not even then
