"""The process that renders chat templates:
`python -P -m rethink.model.tokenizer.template_worker SECONDS BYTES LETTERS`.

A template is a downloaded program, in a language with loops, recursion and methods of Python's texts. Jinja's sandbox
keeps it away from Python's internals; what it may use up is bounded by the system: processor seconds a rendering, and
memory. So the bound holds whatever the template does, and whichever filter or method it uses.

A request is a length (4 bytes) and JSON (`template`, `arguments`); a reply is a status (1 byte), a length (4 bytes) and
a text in UTF-8.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

RENDERED, REFUSED, INVALID, FAILED = b"r", b"n", b"i", b"f"
"""Status of a reply: the text; what `raise_exception` said; why it is no template; what went wrong."""
CHAT_DATE = datetime(2024, 7, 26)
"""What `strftime_now` formats. A prompt must not depend on the day a run is resumed, so the date is fixed; this one
is the fallback that Llama 3's own template uses."""
_LONGEST_REASON = 300


class _TemplateRefusal(Exception):
    """The template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks assistant text for training, renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _ChatSandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja itself would render such an attribute as nothing; a template that reaches for one is better refused.
        raise SecurityError(f"access to the attribute {attribute!r} of {type(obj).__name__}")


def main() -> None:
    """Answer requests until the input ends."""
    seconds, memory, letters = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while length := source.read(4):
        request = json.loads(source.read(int.from_bytes(length, "big")))
        # By its default action the signal ends the process, in whatever operation of C it is.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        status, text = _answer(request["template"], request["arguments"], letters)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(status + len(text).to_bytes(4, "big") + text)
        sink.flush()


def _answer(template: str, arguments: dict[str, Any], letters: int) -> tuple[bytes, bytes]:
    try:
        compiled = _compile(template)
    except Exception as error:  # a syntax error, or what a template that is too deep does to the parser
        return INVALID, _reason(str(error) or type(error).__name__)
    try:
        text = compiled.render(**arguments)
        if len(text) > letters:
            return FAILED, _reason(f"it writes more than {letters:,} letters")
        return RENDERED, text.encode("utf-8", "surrogatepass")
    except _TemplateRefusal as error:
        return REFUSED, _reason(str(error))
    except MemoryError:
        return FAILED, _reason("it takes too much memory")
    except Exception as error:  # a template is foreign code: whatever it raises is its failure
        return FAILED, _reason(f"{type(error).__name__}: {error}")


def _reason(text: str) -> bytes:
    return " ".join(text[:_LONGEST_REASON].split()).encode("utf-8", "replace")


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    environment = _ChatSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = CHAT_DATE.strftime
    return environment.from_string(source)


def _refuse(message: str) -> NoReturn:
    raise _TemplateRefusal(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as templates expect."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    main()
