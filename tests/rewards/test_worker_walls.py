"""What a reward worker gives up before it sees an answer: a hole in a library has nothing to reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.rewards.reward_pool import RewardPool
from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable
from rethink.rewards.sandbox.syscalls import compiled_filter
from tests.rewards.conftest import item

MATH = {"name": "math", "weight": 1.0, "builtin": "math", "function": None, "params": {"answer": "text"}}
ATTEMPTS = """
import ctypes, os, socket, subprocess, sys
from rethink.rewards.sandbox.inside.confine import set_filter
set_filter(ctypes.CDLL(None, use_errno=True), bytes.fromhex(sys.argv[1]))
def can(action):
    try:
        action()
    except OSError:
        return False
    return True
def refused(result):
    if result:
        raise OSError(result)
folder = sys.argv[2]
tried = {
    "write": lambda: open(folder + "/new", "w"),
    "append": lambda: open(folder + "/old", "a"),
    "truncate": lambda: os.open(folder + "/old", os.O_RDONLY | os.O_TRUNC),
    "make": lambda: os.open(folder + "/new", os.O_RDONLY | os.O_CREAT),
    "remove": lambda: os.unlink(folder + "/old"),
    "rename": lambda: os.rename(folder + "/old", folder + "/new"),
    "mode": lambda: os.chmod(folder + "/old", 0o777),
    "folder": lambda: os.mkdir(folder + "/new"),
    "memory": lambda: open("/proc/self/mem", "r+b"),
    "start": lambda: subprocess.run(["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "system": lambda: refused(os.system("true")),
    "socket": lambda: socket.socket(),
    "signal": lambda: os.kill(os.getppid(), 0),
}
print([name for name, action in tried.items() if can(action)], open(folder + "/old").read())
"""


def the_filter() -> str:
    try:
        return compiled_filter(reading_only=True).hex()
    except SandboxUnavailable as error:
        pytest.skip(f"no filter here: {error.cause}")


def test_the_filter_leaves_reading_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("as it was")
    command = [sys.executable, "-c", ATTEMPTS, the_filter(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[] as it was\n"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def a_worker_of(pool: RewardPool) -> Path:
    while not pool.pids():
        pool.submit(0, [item("5")]).result(timeout=60)
    return Path(f"/proc/{pool.pids()[0]}")


def filtered(pool: RewardPool) -> bool:
    lines = (a_worker_of(pool) / "status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Seccomp:")) == "2"


def test_workers_of_built_in_parts_have_no_keys_and_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    the_filter()
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    pool = RewardPool({"answer": "text", "judges": {}, "parts": [MATH]}, [0])
    try:
        assert "hunter2" not in (a_worker_of(pool) / "environ").read_text()
        assert filtered(pool)
    finally:
        pool.close()


def test_functions_of_the_users_own_keep_both(
    pool_of: Callable[..., RewardPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    body = "socket.socket().close()\nreturn float(os.environ['MY_SECRET_TOKEN'] == 'hunter2')"
    pool = pool_of(body, "import os, socket")
    assert pool.submit(0, [item("5")]).result(timeout=60)[0].score == 1.0


@pytest.mark.parametrize("name", ["selectors", "json"])
def test_a_file_beside_the_data_is_not_imported(name: str, tmp_path: Path) -> None:
    """The folder that the command runs in is no place for modules to come from."""
    (tmp_path / f"{name}.py").write_text("open('planted', 'w').close()\nraise ImportError('planted')\n")
    (tmp_path / "rows.jsonl").write_text('{"gold": "5", "completion": "5"}\n')
    code = "import sys; from rethink.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["score", "--reward", "math", "--data", "rows.jsonl", "--out", "out.jsonl"]
    command = [sys.executable, "-P", "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["score"] == 1.0
    assert not (tmp_path / "planted").exists()


OVERLONG = ["--option", "overlong.max_completion_len=9", "--option", "overlong.soft_punish_cache=2"]


@pytest.mark.parametrize("arguments", [["--reward", "code"], ["--reward", "code,overlong", *OVERLONG]])
def test_rows_of_a_file_choose_no_sandbox(arguments: list[str], tmp_path: Path) -> None:
    """Nor do those of a reward that takes options from rows change another's."""
    mark = tmp_path / "mark"
    row = {
        "completion": f"```python\nimport os\nos.mkdir({str(mark)!r})\ndef f(): return 1\n```",
        "test_list": ["assert f() == 1"],
        "params": {"sandbox": "unsafe-none"},
    }
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    data.write_text(json.dumps(row) + "\n")
    code = main(["score", "--data", str(data), "--out", str(out), *arguments])
    assert not mark.exists()
    # Refused as a whole, refused by row, or judged in the sandbox, where the folder cannot be made.
    assert code == 2 or json.loads(out.read_text())["parts"]["code"] in (None, 0.0)
