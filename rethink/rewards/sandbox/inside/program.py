"""The process of a program under test. Nothing here can be trusted once the program runs: it may overwrite all of it.

What it can do with that is to answer its own calls with other plain data, or not at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import threading
import types
from typing import Any

from . import link


def run_script(payload: dict[str, Any]) -> int:
    """Run the source as `__main__`, with the job's streams as its own; gives the exit code that Python would."""
    _fresh_streams()
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    code = 0
    try:
        _prepare(payload, module)
        exec(compile(payload["source"], "program.py", "exec", dont_inherit=True), module.__dict__)
        _join_threads()
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as error:
        code = 1
        _report(error)
    try:
        sys.stderr.flush()
        sys.stdout.flush()
    except BaseException:
        code = code or 120
    return code


def _fresh_streams() -> None:
    """Text streams on descriptors 0, 1, 2, as at the start of Python."""
    random.seed(0)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape")
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8", "surrogateescape", line_buffering=False
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), "utf-8", "backslashreplace", write_through=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _join_threads() -> None:
    main = threading.main_thread()
    for thread in threading.enumerate():
        if thread is not main and not thread.daemon:
            thread.join()


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(str(end.code)[: link.MAX_WHY], file=sys.stderr)
    return 1


def _report(error: BaseException) -> None:
    import traceback

    print("".join(traceback.format_exception(error))[-4 * link.MAX_WHY :], file=sys.stderr)


def serve(payload: dict[str, Any]) -> int:
    """Run the source as a module, then answer requests: what it defines, calls, attributes, items (see `link`).

    Requests come on descriptor 0 and replies go to 1; the program itself sees nothing there but /dev/null.
    """
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    _fresh_streams()
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exchange = link.Link(requests, replies, module)
    try:
        _prepare(payload, module)
        exec(compile(payload["source"], "program.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        exchange.send({"failed": f"{type(error).__name__}: {link.text_of(error)}"[: link.MAX_WHY]})
        return 1
    exchange.send({"loaded": True})
    exchange.serve()
    return 0


def _prepare(payload: dict[str, Any], module: types.ModuleType) -> None:
    """Run what the program may rely on. What fails there (it may use what only the program defines) is left out."""
    for source in payload["before"]:
        with contextlib.suppress(Exception):
            exec(compile(source, "before.py", "exec", dont_inherit=True), module.__dict__)
