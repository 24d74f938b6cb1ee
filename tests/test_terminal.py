"""What reaches a terminal: text made visible, and nothing that prints past it."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.terminal import guard_process, json_text, make_console, say, visible
from tests.paths import ROOT

ATTACKS = {
    "colour": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "eight-bit": "\x9b31m\x9d0;x\x9c",
    "answer back": "\x1b[6n\x1b[c\x05",
    "overwrite": "safe\rmore\x08\x08",
    "direction": "abc\u202ecod.exe\u2066x\u2069",
    "lines": "a\u2028b\u2029c\x0bd\x0ce",
    "surrogate": "a\ud800b",
    "nothing is seen": "pay\u200bpal\ufeff\u00ad\u2060\u3164",
    "a joiner in a name": "pay\u200dpal",
    "tags": "a\U000e0041\U000e0042",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert shown != text
    assert not any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\n\t" for c in shown)
    assert not any(unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
                   for c in shown)  # fmt: skip
    shown.encode("utf-8")


@given(st.text(alphabet=st.characters(), max_size=40), st.integers(0, 40))
def test_no_text_gets_through_and_pieces_are_shown_as_the_whole(text: str, cut: int) -> None:
    for pair in "\r\u200c\u200d":  # these are judged by what stands beside them
        text = text.replace(pair, "")
    assert visible(text[:cut]) + visible(text[cut:]) == visible(text)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in visible(text))


def test_harmless_text_stays() -> None:
    text = "Grüße, 世界! 👩🏽\u200d🚀 می\u200cخواهم\n\tif x:\n\t\treturn '%'  # עברית العربية"
    assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"
    assert visible("\x1b[31m") == "␛[31m"


@given(st.text(alphabet=st.characters(), max_size=40))
def test_json_says_exactly_the_value_in_visible_characters(text: str) -> None:
    line = json_text({"text": text, text: 1})
    assert json.loads(line) == {"text": text, text: 1}
    assert visible(line) == line


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_a_terminal_gets_colours_of_ours_alone(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    console = make_console(file=out, force_terminal=True, color_system="standard", width=200)
    table = Table("a", title=text)
    table.add_row(text + "[bold]x[/nonsense][link=http://evil]")
    console.print(table)
    console.print(Panel(Text(text, style="bold red"), title=Text(text)))
    console.print(text)
    left = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert visible(left) == left
    assert "\x1b[1;31m" in out.getvalue()
    assert "[link=http://evil]" in out.getvalue()


def test_logs_warnings_and_tracebacks_are_visible(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    before = logging.getLogRecordFactory()
    guard_process()
    guard_process()
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("someone's")
    logger.addHandler(handler)
    try:
        logger.warning("model %s", "\x1b[2J")
        try:
            raise ValueError("\x9b2J")
        except ValueError as error:
            logger.exception("failed")
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)
    sys.stderr.write(warnings.formatwarning("\x1b]0;t\x07", UserWarning, "f.py", 1, ""))
    said = capsys.readouterr().err
    assert said.count("<U+009B>2J") == 2
    assert "model ␛[2J" in said
    assert visible(said) == said


def test_say_is_print(capsys: pytest.CaptureFixture[str]) -> None:
    say()
    say(3)
    say("a\x07", file=sys.stderr, end="")
    assert capsys.readouterr() == ("\n3\n", "a␇")


def test_no_other_module_makes_a_console() -> None:
    """Ruff's T20 sees to `print`; rich's own consoles take markup and escape sequences from text."""
    own = re.compile(r"\bConsole\(|get_console|rich\.print|from_markup")
    found = [path.name for path in (ROOT / "rethink").rglob("*.py") if own.search(path.read_text("utf-8"))]
    assert not found
