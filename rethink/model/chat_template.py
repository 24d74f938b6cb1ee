"""Jinja chat templates, by the conventions of Hugging Face and in a sandbox: a template is a downloaded program.

The sandbox forbids attributes that lead to Python's internals, changing the arguments, ranges over 100,000 and
products or powers that would fill the memory. It does not bound the time of nested loops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rethink.errors import ModelError

CHAT_DATE = datetime(2024, 7, 26)
"""What `strftime_now` formats. A prompt must not depend on the day a run is resumed, so the date is fixed; this one
is the fallback that Llama 3's own template uses."""
_LONGEST_PRODUCT = 1_000_000
_LARGEST_POWER = 4096


class _TemplateRefusal(Exception):
    """The template called `raise_exception`."""


class _GenerationTag(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks assistant text for training, renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _ChatSandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (_magnitude(left) > _LARGEST_POWER or _magnitude(right) > _LARGEST_POWER):
            raise SecurityError(f"a power above {_LARGEST_POWER}")
        if operator == "*" and _size(left) * _size(right) > _LONGEST_PRODUCT:
            raise SecurityError(f"a text or list longer than {_LONGEST_PRODUCT}")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja itself would render such an attribute as nothing; a template that reaches for one is better refused.
        raise SecurityError(f"access to the attribute {attribute!r} of {type(obj).__name__}")


def _magnitude(value: Any) -> float:
    return abs(value) if isinstance(value, int | float) else 0


def _size(value: Any) -> float:
    """Length of a sequence times repetitions; numbers by themselves multiply freely."""
    if isinstance(value, str | bytes | Sequence):
        return max(len(value), 1)
    return 0 if not isinstance(value, int) else abs(value)


def compile_template(source: str) -> Callable[..., str]:
    """A function that renders the template with keyword arguments.

    Raises:
        ModelError: the template is not valid Jinja.
    """
    environment = _ChatSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = CHAT_DATE.strftime
    try:
        return environment.from_string(source).render
    except jinja2.TemplateError as error:
        raise ModelError(
            f"the model's chat template is not valid Jinja ({error}); correct `chat_template` in its "
            "tokenizer_config.json, or set prompt.template to r1-zero or raw"
        ) from error


def render(
    template: Callable[..., str],
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
) -> str:
    """Render a conversation.

    Raises:
        ModelError: the template refused the messages or failed; the message says what to set instead.
    """
    try:
        return template(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            tools=None,
            documents=None,
            **special_tokens,
        )
    except _TemplateRefusal as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the model's chat template refuses this conversation (roles: {roles}): {error}. Change prompt.system or "
            "prompt.examples accordingly, or set prompt.template to r1-zero or raw"
        ) from error
    except Exception as error:  # a template is foreign code: whatever it raises is its failure
        raise ModelError(
            f"the model's chat template failed ({type(error).__name__}: {error}); correct `chat_template` in its "
            "tokenizer_config.json, or set prompt.template to r1-zero or raw"
        ) from error


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
