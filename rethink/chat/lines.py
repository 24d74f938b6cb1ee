"""Lines of the user: edited and remembered on a terminal, read one by one from a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rethink.chat.chat_session import Session
from rethink.errors import RethinkError, how_to_install
from rethink.store.cache import cache_root
from rethink.terminal import make_console

PROMPT = "› "
HISTORY = "chat-history"
"""Name of the file in the cache."""
NO_EDITOR = f"line editing is plain: {how_to_install('chat')} brings history, several lines and key bindings"


def talk(session: Session, greeting: str) -> None:
    """A conversation on a terminal, until the user leaves."""
    session.screen.note(greeting)
    read = _editor(session)
    while True:
        try:
            line = read()
        except EOFError:
            return
        except KeyboardInterrupt:
            session.screen.note("Ctrl-D or /exit leaves")
            continue
        try:
            if not session.take(line):
                return
        except RethinkError as error:
            session.screen.note(str(error))


def read_lines(session: Session, lines: TextIO) -> None:
    """Every line is a message or a command; an error ends it.

    Raises:
        RethinkError: as `Session.take`.
    """
    reconfigure = getattr(lines, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    for line in lines:
        if not session.take(line):
            return


def _editor(session: Session) -> Callable[[], str]:
    """What reads a line: prompt_toolkit where it is installed, else what Python has."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, InMemoryHistory
    except ImportError:
        session.screen.note(NO_EDITOR)
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - editing and history for `input`
        return lambda: input(PROMPT)
    path = _history_file()
    history = InMemoryHistory() if path is None else FileHistory(str(path))
    prompt: Any = PromptSession(
        PROMPT, history=history, key_bindings=_keys(session), enable_open_in_editor=True, complete_while_typing=False
    )
    return lambda: str(prompt.prompt())


def _keys(session: Session) -> Any:
    """Alt-Enter begins a new line; Ctrl-T folds and unfolds thoughts."""
    from prompt_toolkit.application import run_in_terminal
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-t")
    def _(event: Any) -> None:
        run_in_terminal(lambda: session.take("/think"))

    return keys


def _history_file() -> Path | None:
    """For the user's eyes only; None where it cannot be written."""
    path = cache_root() / HISTORY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError:
        return None
    return path


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner on a terminal's standard error while something loads."""
    from rich.text import Text

    console = make_console(stderr=True)
    if not (console.is_terminal and sys.stdout.isatty()):
        yield
        return
    with console.status(Text(text, style="dim")):
        yield
