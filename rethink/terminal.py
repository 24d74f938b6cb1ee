"""Terminal output: every line, table and error that Rethink prints passes through here. And Ctrl-C.

Models, data, recipes, endpoints and file names are written by others, and a terminal obeys what it is sent: escape
sequences move the cursor, set titles, write the clipboard. So text is made visible in one place. `ruff` (T20) and
tests/test_terminal.py see that nothing else prints.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_CONTROL_PICTURES = 0x2400
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
    # The direction of writing.
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    # Nothing is seen of these: two names that look alike may differ in them.
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff]"
    # Joiners belong to scripts and emoji; beside ASCII they only hide.
    "|(?<=[\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f])"
)


def visible(text: str) -> str:
    """The text with nothing in it that a terminal would obey, or that hides.

    Escape and the other control characters become their pictures (␛), so that colours, cursor moves, titles, links and
    clipboard writes are seen and not done; marks that turn the direction of writing, and characters without width, are
    spelled out. Control characters are judged alone, so a sequence that comes in pieces is caught as well. Line feeds
    and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(_shown, text.replace("\r\n", "\n"))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF else f"<U+{code:04X}>"


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print, as `print` does, what `visible` makes of the text."""
    print(visible(str(text)), file=file, end=end, flush=flush)


def json_text(value: Any) -> str:
    r"""One line of JSON that says exactly the value, with what `visible` would replace as `\u…`.

    Raises:
        ValueError: it holds a number that JSON does not have.
    """
    return _OBEYED.sub(_escaped, json.dumps(value, ensure_ascii=False, allow_nan=False))


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1] if match[0] != "\x7f" else "\\u007f"


def make_console(**options: Any) -> Console:
    """Rich's console, which shows texts made visible and takes no markup from them; `options` are rich's."""
    return _console_type()(**({"highlight": False} | options), markup=False, emoji=False)


def print_table(table: Table, width: int) -> None:
    """Print rich's table; `width`: columns if the output is not a terminal."""
    console = make_console()
    (console if console.is_terminal else make_console(width=width)).print(table)


@functools.cache
def _console_type() -> type[Console]:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class VisibleConsole(Console):
        """Rich's own control sequences are segments of their own; every other segment is text."""

        def render_str(self, text: str, **further: Any) -> Text:
            return super().render_str(visible(text), **further)  # before widths are measured

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    return VisibleConsole


def guard_process() -> None:
    """Make visible what Python and libraries print of exceptions, warnings and logs from now on.

    Characters that the encoding of an output lacks are replaced.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    sys.excepthook = lambda kind, error, trace: say(
        "".join(traceback.format_exception(kind, error, trace)), file=sys.stderr, end="", flush=True
    )
    if not isinstance(logging.getLogRecordFactory(), _Records):
        logging.setLogRecordFactory(_Records(logging.getLogRecordFactory()))
        plain = warnings.formatwarning
        warnings.formatwarning = lambda *args, **further: visible(plain(*args, **further))


class _Records:
    """Makes records of logging whose message is visible, for whichever handler prints it."""

    def __init__(self, make: Callable[..., logging.LogRecord]):
        self._make = make

    def __call__(self, *args: Any, **further: Any) -> logging.LogRecord:
        record = self._make(*args, **further)
        try:
            record.msg, record.args = visible(record.getMessage()), None
            if record.exc_info:
                record.exc_text = visible(logging.Formatter().formatException(record.exc_info))
        except Exception:  # a broken call of logging: the handler reports it
            pass
        return record


@contextlib.contextmanager
def stop_on_interrupt(on_first: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool]]:
    """Ctrl-C once: what is yielded says True from then on, and `on_first` is called. Twice: stop at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def on_signal(*_: object) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        on_first()

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
