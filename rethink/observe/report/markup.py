"""Small pieces of HTML. Whatever comes from a run is hostile: everything here escapes what it is given."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

# Raw control characters are errors in HTML, and NUL is dropped by some parsers: a picture of the problem instead.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_IN_SCRIPT = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def text(value: object) -> str:
    """Any value as inert HTML text, also inside a quoted attribute."""
    return escape(_CONTROL.sub("\ufffd", str(value)))


def prose(value: str) -> str:
    """Text of our own with `code` in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def navigation(links: Iterable[tuple[str, str]]) -> str:
    """Links to sections, each with its title."""
    listed = "".join(f'<li><a href="#{identifier}">{title}</a></li>' for identifier, title in links)
    return f'<nav aria-label="Sections"><ul>{listed}</ul></nav>'


def document(title: str, body: str, script: str | None = None) -> str:
    """A whole page with our style, which may load and run nothing else.

    Args:
        title: any text.
        body: HTML that is already safe.
        script: file beside this one that the page runs; None: none.
    """
    style, code = (
        "" if name is None else files("rethink.observe.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", script)
    )
    allowed = f"script-src {csp_hash(code)}; " if script else ""
    policy = f"default-src 'none'; {allowed}style-src {csp_hash(style)}; base-uri 'none'; form-action 'none'"
    run = f"<script>{code}</script>\n" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">To the content</a>\n{body}\n{run}</body>\n</html>\n'
    )


def element(name: str, content: str, **attributes: str) -> str:
    """An element around HTML that is already safe; attribute values are escaped, `class_` is `class`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def json_block(identifier: str, value: Any) -> str:
    """Data for the page's script, in an element that is never run and that no text can close."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_IN_SCRIPT)
    return f'<script type="application/json" id="{text(identifier)}">{body}</script>'


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, class_: str = "") -> str:
    """A table of safe HTML cells; the first cell of a row is its heading. Wide tables scroll by themselves."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>' for cells in rows
    )
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return element("div", inner, class_=f"scroll {class_}".strip(), tabindex="0")


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """A list of names and values."""
    inner = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{inner}</dl>'


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names; lists of plain values on one line."""
    pairs: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            pairs += flat(item, f"{name}.")
        elif isinstance(item, (list, tuple)) and all(isinstance(x, (str, int, float)) for x in item):
            pairs.append((name, ", ".join(map(str, item)) or "none"))
        else:
            pairs.append((name, "none" if item is None else item if isinstance(item, str) else json.dumps(item)))
    return pairs


def details(summary: str, content: str, *, open_: bool = False, class_: str = "") -> str:
    """A part that folds; both arguments are safe HTML."""
    flags = (f' class="{text(class_)}"' if class_ else "") + (" open" if open_ else "")
    return f"<details{flags}><summary>{summary}</summary>{content}</details>"


def csp_hash(content: str) -> str:
    """The source expression that lets exactly this inline script or style work."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"
