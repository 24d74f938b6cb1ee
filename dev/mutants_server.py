"""What `dev/mutants.py` runs tests with: a process that has imported the heavy libraries, and forks for each pytest.

One JSON object a line comes in (`arguments`, `seconds`), one goes out (`status`, null where the time was over; `text`).
The package itself is imported by each fork, so each sees the source as it stands then.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
import time

import psutil
import pytest

HEAVY = (
    "torch torch._dynamo torch.testing numpy scipy.stats pydantic hypothesis transformers safetensors.torch tokenizers "
    "gguf pyarrow.parquet rich.live jinja2 yaml sympy math_verify huggingface_hub httpx2"
).split()
SUBREAPER = 36
"""`prctl`'s number of PR_SET_CHILD_SUBREAPER: orphans come to this process, which can then end them."""


def main() -> None:
    """Serve until the input ends."""
    collect_orphans()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        status, text = run(asked["arguments"], asked["seconds"])
        answers.write(json.dumps({"status": status, "text": text}) + "\n")
        answers.flush()


def collect_orphans() -> None:
    """What loses its parent below this process becomes its child."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def run(arguments: list[str], seconds: float) -> tuple[int | None, str]:
    """(exit status, output) of one pytest in a fork; nothing that it started outlives it."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            status = 3
            try:
                status = int(pytest.main(arguments))
            finally:
                sys.stdout.flush()
                os._exit(status)
        status_ = wait(child, seconds)
        output.seek(0)
        return status_, output.read().decode("utf-8", "replace")


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, None past the time; ends what it left behind."""
    until = time.monotonic() + seconds
    status: int | None = None
    while time.monotonic() < until:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
            break
        time.sleep(0.05)
    left = psutil.Process().children(recursive=True)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=10)
    return status


if __name__ == "__main__":
    main()
