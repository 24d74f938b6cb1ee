"""Jinja chat templates, by the conventions of Hugging Face, in a process with limits (`template_worker.py`)."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from rethink.errors import ModelError

SECONDS, MEMORY, LETTERS = 5.0, 1 << 30, 1 << 25
"""Most processor seconds of a rendering, memory of the process in bytes, and letters of a conversation's text. Honest
templates take a millisecond and some megabytes."""
_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
"""Of the environment, what the process inherits: no keys, no tokens."""
_PACKAGES = Path(__file__).resolve().parents[3]
_ADVICE = (
    "correct `chat_template` in its tokenizer_config.json, use another model, or set prompt.template to r1-zero or raw"
)


def render(
    source: str,
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
) -> str:
    """Render a conversation.

    Raises:
        ModelError: the template is not valid Jinja, refused the messages, failed, or takes too much time or memory; the
            message says what to set instead.
    """
    arguments = {
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
        **special_tokens,
    }
    status, text = _WORKER.ask(json.dumps({"template": source, "arguments": arguments}).encode())
    if status == b"r":
        return text.decode("utf-8", "surrogatepass")
    said = text.decode("utf-8", "replace")
    if status == b"n":
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the model's chat template refuses this conversation (roles: {roles[:200]}): {said}. Change prompt.system "
            "or prompt.examples accordingly, or set prompt.template to r1-zero or raw"
        )
    wrong = "is not valid Jinja" if status == b"i" else "failed"
    raise ModelError(f"the model's chat template {wrong} ({said}); {_ADVICE}")


class _Worker:
    """The process, started when it is first needed and again after a template has ended it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Status and text of a reply.

        Raises:
            ModelError: the process cannot be started.
        """
        with self.lock:
            try:
                process = self.process = self.process or _start()
            except OSError as error:
                raise ModelError(
                    f"the process that renders chat templates cannot be started ({error.strerror or error}); free "
                    "memory or processes"
                ) from error
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                _write(process.stdin, len(request).to_bytes(4, "big") + request)
                head = _read(process.stdout, 5)
                return head[:1], _read(process.stdout, int.from_bytes(head[1:], "big"))
            except (OSError, EOFError):
                self.end()
                return b"f", f"it takes more than {SECONDS:g} s of processor time or too much memory".encode()
            except BaseException:  # Ctrl-C: the rest of the reply must not be taken for that of the next request
                self.end()
                raise

    def end(self) -> None:
        """Kill the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def forget(self) -> None:
        """In the child of a fork: the process is the parent's."""
        self.__init__()  # type: ignore[misc]


def _write(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def _read(pipe: IO[bytes], length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = pipe.read(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(_PACKAGES), *filter(None, sys.path)])
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return subprocess.Popen(
        # Without -P the folder that the command runs in comes first, and its `json.py` would be run.
        [
            sys.executable,
            "-P",
            "-m",
            "rethink.model.tokenizer.template_worker",
            str(SECONDS),
            str(MEMORY),
            str(LETTERS),
        ],
        bufsize=0,  # a buffer would be written twice where the process forks
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**kept, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the command
    )


_WORKER = _Worker()
atexit.register(_WORKER.end)
os.register_at_fork(after_in_child=_WORKER.forget)
