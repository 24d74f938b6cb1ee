"""Reward workers: hostile checkers cost one limit, in total, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rethink.rewards.outcome import OUT_OF_MEMORY
from rethink.rewards.reward_pool import RewardPool
from rethink.types import RewardOutcome
from tests.rewards.conftest import PROBLEM, item

Pools = Callable[..., RewardPool]


def score(pool: RewardPool, texts: list[str]) -> list[RewardOutcome]:
    futures = [pool.submit(0, [item(text)]) for text in texts]
    return [future.result(timeout=120)[0] for future in futures]


def test_order_is_kept_and_hostile_text_survives_the_way(pool_of: Pools) -> None:
    pool = pool_of("return float(len(text))")
    texts = ["x" * n for n in range(40)] + ["\ud800", "\0\x1b", "é" * 70_000]
    assert [outcome.score for outcome in score(pool, texts)] == [float(len(text)) for text in texts]


@pytest.mark.parametrize("hang", ["time.sleep(1000)", "while True: pass"])
def test_hanging_checkers_do_not_hold_the_places_of_the_others(pool_of: Pools, hang: str) -> None:
    limit = 2.0
    pool = pool_of(f"if 'hang' in text:\n    {hang}\nreturn float(text)", "import time", seconds=limit, places=2)
    score(pool, ["0"])  # warm
    texts = ["hang"] * 16 + [str(n) for n in range(48)]
    began = time.monotonic()
    outcomes = score(pool, texts)
    taken = time.monotonic() - began
    assert [o.score for o in outcomes[16:]] == [float(n) for n in range(48)]
    assert all((o.failure or "").startswith("timeout: longer than 2 s") for o in outcomes[:16])
    # One after the other on two places they would take 8 limits. The issue asks for less than 3.
    assert taken < 6 * limit


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crash: the worker was killed by SIGSEGV"),
        ("import os\nos._exit(3)", "crash: the worker ended with exit code 3"),
        ("raise SystemExit(3)", "exception: SystemExit"),
        ("return bytearray(1 << 30) and 1", OUT_OF_MEMORY),
        ("return score(problem, text)", "exception: RecursionError"),
        ("return float('nan')", "invalid: not finite"),
        ("return 'high'", "invalid: returned 'high'"),
        ("return [1.0]", "invalid: returned a list"),
        ("raise ValueError('no')", "exception: ValueError: no (user_rewards.py:5)"),
    ],
)
def test_failures_have_names(pool_of: Pools, body: str, failure: str) -> None:
    pool = pool_of(f"if text == 'fine':\n    return 1\n{body}", memory_bytes=512 << 20)
    outcomes = score(pool, ["bad", "fine", "bad", "fine"])
    for outcome in outcomes[::2]:
        assert outcome.score is None
        assert (outcome.failure or "").startswith(failure)
    assert [o.score for o in outcomes[1::2]] == [1.0, 1.0]


def test_what_a_checker_started_ends_with_it(pool_of: Pools, tmp_path: Path) -> None:
    """Also what fled into a session of its own, and the children of that."""
    marks = [f"sleep {90000 + os.getpid() + n}" for n in range(3)]
    body = (
        f"subprocess.Popen({marks[0].split()!r})\n"
        f"subprocess.Popen({marks[1].split()!r}, start_new_session=True)\n"
        f"subprocess.Popen(['setsid', 'sh', '-c', {marks[2] + ' & wait'!r}])\n"
        "time.sleep(1000)"
    )
    pool = pool_of(body, "import subprocess, time", seconds=0.7)
    assert "timeout" in str(score(pool, ["x"])[0].failure)
    assert not [p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []) in marks]


def test_nothing_outlives_the_run(tmp_path: Path) -> None:
    """The run's process is killed without warning: warden, workers and a hanging checker go with it."""
    (tmp_path / "slow_rewards.py").write_text("import time\ndef score(problem, text):\n    time.sleep(1000)\n")
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from tests.rewards.conftest import item\n"
        "from rethink.rewards.reward_pool import RewardPool\n"
        "part = {'name': 'm', 'weight': 1, 'builtin': None, 'function': 'slow_rewards:score', 'params': {}}\n"
        "pool = RewardPool({'answer': 'auto', 'judges': {}, 'parts': [part]}, [0], seconds=1000)\n"
        "pool.submit(0, [item('x')])\n"
        "while len(pool.pids()) < 1: time.sleep(0.05)\n"
        "time.sleep(0.3)\n"
        "print(pool._warden.pid, *pool.pids(), flush=True)\n"
        "time.sleep(1000)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    pids = [int(pid) for pid in run.stdout.readline().split()]
    assert len(pids) >= 2
    run.kill()
    run.wait()
    until = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_killed_worker_and_a_killed_warden_are_replaced(pool_of: Pools) -> None:
    pool = pool_of("import time\nif text == 'wait':\n    time.sleep(1000)\nreturn 1", seconds=60)
    assert score(pool, ["a"])[0].score == 1
    waiting = pool.submit(0, [item("wait")])
    time.sleep(0.3)
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    assert str(waiting.result(timeout=30)[0].failure).startswith("crash: the worker was killed by SIGKILL")
    assert score(pool, ["a"])[0].score == 1
    waiting = pool.submit(0, [item("wait")])
    time.sleep(0.3)
    pool._warden.kill()
    assert str(waiting.result(timeout=30)[0].failure).startswith("crash")
    assert score(pool, ["a"])[0].score == 1


def test_any_thread_may_ask(pool_of: Pools) -> None:
    pool = pool_of("return float(text)")
    found: dict[int, float | None] = {}

    def ask(n: int) -> None:
        found[n] = score(pool, [str(n)])[0].score

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: float(n) for n in range(8)}


def test_workers_are_light(pool_of: Pools) -> None:
    pool = pool_of("import sys\nreturn float('torch' in sys.modules)")
    assert score(pool, ["x"])[0].score == 0


def test_metadata_that_is_no_json_is_a_failure(pool_of: Pools) -> None:
    import dataclasses

    pool = pool_of("return 1")
    bad = dataclasses.replace(PROBLEM, metadata={"when": object()})
    assert str(pool.submit(0, [item("x", bad)]).result(timeout=30)[0].failure).startswith("invalid")
    assert score(pool, ["x"])[0].score == 1


def test_closing_ends_what_is_open(pool_of: Pools) -> None:
    pool = pool_of("import time\ntime.sleep(1000)", seconds=1000)
    future = pool.submit(0, [item("x")])
    time.sleep(0.3)
    pool.close()
    assert str(future.result(timeout=5)[0].failure).startswith("crash")
    assert not pool.pids()
