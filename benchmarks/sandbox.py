"""Programs run a second: in warm sandboxes, in fresh ones, and without any; and what a start costs.

`sandlock` (Landlock and seccomp) is measured beside bubblewrap where it is installed. Numbers are medians of --runs
rounds on otherwise idle cores.

    python benchmarks/sandbox.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import common

from rethink.rewards.code.part import run
from rethink.rewards.code.problem_tests import Assertions, Pairs
from rethink.rewards.code.verdict import run_script
from rethink.rewards.sandbox.isolation import interpreter_files
from rethink.rewards.sandbox.process import Limits, Sandbox
from rethink.rewards.sandbox.warm_sandboxes import close_all

LIMITS = Limits(wall_seconds=60.0)
SCRIPT = "print(sum(map(int, input().split())))"
PAIRS = Pairs((("1 2\n", "3\n"),))
FUNCTION = "def add(a, b): return a + b"
ASSERTS = Assertions(tuple(f"assert add({n}, 1) == {n + 1}" for n in range(3)))


def rate(work: Callable[[], object], count: int, threads: int) -> float:
    """Calls a second."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: work(), range(threads)))  # warm
        started = time.perf_counter()
        list(pool.map(lambda _: work(), range(count)))
        return count / (time.perf_counter() - started)


def fresh() -> None:
    """A sandbox for one program."""
    sandbox = Sandbox()
    try:
        run_script(SCRIPT, "1 2\n", sandbox, LIMITS)
    finally:
        sandbox.close()


def unprotected() -> None:
    """An interpreter for one program, as a system without a sandbox would run it."""
    subprocess.run([sys.executable, "-I", "-c", SCRIPT], input=b"1 2\n", stdout=subprocess.DEVNULL, check=True)


def landlocked() -> None:
    """The same under sandlock."""
    from sandlock import Sandbox as Landlocked

    readable = [sys.base_prefix, "/usr/lib", "/lib", "/lib64"]
    box = Landlocked(fs_readable=readable, clean_env=True, max_memory="512M", max_processes=4)
    python = interpreter_files()[0][0]
    if not box.run([python, "-I", "-c", SCRIPT.replace("input()", "'1 2'")], timeout=60).success:
        raise RuntimeError("sandlock failed")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--count", type=int, default=300, help="programs a round (a tenth of it where each starts)")
    options.add_argument("--json", action="store_true", help="end with one JSON line")
    args = options.parse_args()
    interpreter_files()  # found once a process
    few = max(4, args.count // 10)
    cases: dict[str, tuple[Callable[[], object], int, int]] = {
        "warm, stdin and stdout, 1 thread": (lambda: run(SCRIPT, PAIRS, "required", LIMITS), args.count, 1),
        "warm, stdin and stdout, 2 threads": (lambda: run(SCRIPT, PAIRS, "required", LIMITS), args.count, 2),
        "warm, three asserts, 1 thread": (lambda: run(FUNCTION, ASSERTS, "required", LIMITS), args.count, 1),
        "warm, three asserts, 2 threads": (lambda: run(FUNCTION, ASSERTS, "required", LIMITS), args.count, 2),
        "fresh sandbox, 1 thread": (fresh, few, 1),
        "no sandbox, fresh interpreter, 1 thread": (unprotected, few, 1),
    }
    try:
        import sandlock  # noqa: F401

        cases["sandlock, fresh interpreter, 1 thread"] = (landlocked, few, 1)
    except ImportError:
        pass
    found = {name: statistics.median(rate(*case) for _ in range(args.runs)) for name, case in cases.items()}
    close_all()
    for name, value in found.items():
        print(f"{name:<42} {value:8.1f} programs/s  {1000 / value:7.2f} ms")
    if args.json:
        print(json.dumps({"name": "sandbox", "programs_per_second": found, "machine": common.machine()}))


if __name__ == "__main__":
    main()
