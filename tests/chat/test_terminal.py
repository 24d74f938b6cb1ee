"""`rethink chat` in a terminal of its own, and through pipes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rethink.terminal import visible
from tests.paths import ROOT

SECONDS = 120.0
"""For each expectation: a busy machine may take long, and nothing here is about time."""
CTRL_C, CTRL_D, CTRL_T, UP = "\x03", "\x04", "\x14", "\x1b[A"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Terminal:
    """A program on a pseudo-terminal: what it has shown, and keys for it."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execvpe(command[0], command, environment)
        self.raw = ""
        self._seen = 0

    def expect(self, text: str) -> None:
        """Wait until the text is shown after what was expected before."""
        ends = time.monotonic() + SECONDS
        while True:
            place = self.shown.find(text, self._seen)
            if place >= 0:
                self._seen = place + len(text)
                return
            more = time.monotonic() < ends and self._read()
            assert more, f"{text!r} never came; shown: {self.shown[-2000:]!r}"

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def ask(self, line: str, *shown: str) -> None:
        """Enter a line, and wait for what answers it."""
        self.type(f"{line}\r")
        for text in shown:
            self.expect(text)

    def ends(self) -> int:
        """The exit code, once the program has ended."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def close(self) -> None:
        os.close(self._fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def _read(self) -> bool:
        """Take what has come; False once there is no more."""
        ready, _, _ = select.select([self._fd], [], [], SECONDS)
        if not ready:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    environment = os.environ | {
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "RETHINK_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    made = Terminal([sys.executable, "-m", "tests.chat.pty_chat"], environment)
    yield made
    made.close()


def test_a_conversation_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.expect("ready to talk")
    terminal.expect("›")
    terminal.ask("first", "secret pondering", "answer to first")
    assert "\x1b[2;3msecret" in terminal.raw or "\x1b[2m" in terminal.raw  # dimmed
    terminal.expect("›")

    # Ctrl-C stops the answer, keeps what came and goes on; at the prompt it does not leave.
    terminal.ask("forever", "tick3")
    terminal.type(CTRL_C)
    terminal.expect("[stopped]")
    terminal.expect("›")
    terminal.type("half a line" + CTRL_C)
    terminal.expect("Ctrl-D or /exit leaves")

    # Folded: the thought is a line, and unfolding shows it.
    terminal.expect("›")
    terminal.ask("/think", "thoughts are folded", "›")
    terminal.ask("second", "▸ thought, about 2 words (/think shows it)", "answer to second", "›")
    terminal.type(CTRL_T)
    terminal.expect("thoughts are shown")
    terminal.expect("secret pondering")

    # What the model writes is shown and not obeyed.
    terminal.ask("attack", "␛]0;OWNED␇", "safe")
    assert "\x1b]0;OWNED" not in terminal.raw

    # An error is said and the conversation goes on; the arrow brings the line back.
    terminal.expect("›")
    terminal.ask("/nonsense", "there is no command /nonsense", "›")
    terminal.ask("third", "answer to third")
    terminal.expect("›")
    terminal.type(UP + "\r")
    terminal.expect("answer to third")
    terminal.expect("›")
    terminal.ask(f"/save {tmp_path / 'talk.json'}", "saved to", "›")
    terminal.type(CTRL_D)
    assert terminal.ends() == 0
    assert terminal.shown.rstrip().endswith("left")
    messages = json.loads((tmp_path / "talk.json").read_text("utf-8"))["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == [
        "first", "forever", "second", "attack", "third", "third"
    ]  # fmt: skip
    history = tmp_path / "cache" / "chat-history"
    assert history.stat().st_mode & 0o077 == 0
    assert "forever" in history.read_text("utf-8")


def piped(words: list[str], text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RETHINK_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
    command = [sys.executable, "-m", "rethink", "chat", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=280)


@pytest.mark.slow
def test_pipes_get_answers_and_nothing_else(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = str(tiny_folder("llama"))
    done = piped(["--model", model, "--max-new-tokens", "8", "--json"], "hello\n\n/set seed=3\nagain\n", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["user"] for row in rows] == ["hello", "again"]
    assert all(row["finish_reason"] in ("stop", "length") and 1 <= row["tokens"] <= 8 for row in rows)
    assert visible(done.stdout) == done.stdout
    assert "seed=3" in done.stderr
    plain = piped(["--model", model, "--max-new-tokens", "8"], "hello\n/nonsense\nagain\n", tmp_path)
    assert plain.returncode == 2
    assert "no command /nonsense" in plain.stderr
