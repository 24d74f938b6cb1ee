"""A chat template that asks a model as it was trained, for programs that read no `rethink.json`.

The turns of a conversation are put into the run's instruction, behind its system message and examples. They are given
to the model's own template, or written out as the run's template has them. The prefill comes last.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

from rethink.errors import ModelError
from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.r1_template import render_r1_zero, spaced
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.schema import PromptSection

_PLACE = "{question}"
_CONTENT = "message['content']"
_TRIED = (
    ({"role": "user", "content": "What is 3 + 4?"},),
    (
        {"role": "user", "content": "Why?\nSay 'it'."},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "And {question}?"},
    ),
)
"""Conversations that the template must render as the run's prompt does."""


def trained_template(tokenizer: Tokenizer, section: PromptSection) -> str | None:
    """The chat template; None where none can say what the prompt does.

    Args:
        tokenizer: of the model.
        section: the prompt of the run.

    Raises:
        UsageError: the section does not fit the model.
    """
    made = copy.copy(tokenizer)
    made.chat_template = _chat(tokenizer, section) if section.template == "chat" else _text(tokenizer, section)
    renderer = PromptRenderer(tokenizer, section, context=1 << 30)
    try:
        same = all(
            made.render_chat(turns, add_generation_prompt=True) == renderer.render_turns(turns).text for turns in _TRIED
        )
    except ModelError:  # a template that cannot show the examples, or refuses the turns
        return None
    return made.chat_template if same else None


def _chat(tokenizer: Tokenizer, section: PromptSection) -> str:
    """The model's own template behind statements that change `messages`."""
    examples = []
    for example in section.examples:
        asked = section.instruction.replace(_PLACE, example.question)
        examples += [{"role": "user", "content": asked}, {"role": "assistant", "content": example.completion}]
    system = [] if section.system is None else [{"role": "system", "content": section.system}]
    statements = (
        "set asked = namespace(turns=[])",
        "if messages[0]['role'] == 'system'",
        f"set asked.turns = [messages[0]] + {_literal(examples)}",
        "else",
        f"set asked.turns = {_literal([*system, *examples])}",
        "endif",
        "for message in messages",
        "if message['role'] == 'user'",
        f"set asked.turns = asked.turns + [{{'role': 'user', 'content': {_asked(section)}}}]",
        "elif message['role'] != 'system'",
        "set asked.turns = asked.turns + [message]",
        "endif",
        "endfor",
        "set messages = asked.turns",
    )
    own = (tokenizer.chat_template or "").removesuffix("\n")
    return _statements(statements) + own + _at_the_end(section.prefill)


def _text(tokenizer: Tokenizer, section: PromptSection) -> str:
    """The run's own text around each turn."""
    examples = [(section.instruction.replace(_PLACE, e.question), e.completion) for e in section.examples]
    if section.template == "r1-zero":
        before = render_r1_zero("\0", examples)
        begin, turn_end = before.split("\0")
        begin, opened = begin[: begin.rindex("User: ")], "User: "
        asked = f"{_literal(opened)} + {_asked(section)} + {_literal(turn_end)}"
        said, prefill = f"' ' + {_CONTENT} + {_literal(chr(10))}", spaced(section.prefill)
    else:
        begin = "".join(f"{question}{completion}\n\n" for question, completion in examples)
        asked, said, prefill = _asked(section), f"{_CONTENT} + {_literal(chr(10) * 2)}", section.prefill
    bos = "{{ bos_token }}" if tokenizer.adds_bos and tokenizer.bos_id is not None else ""
    turns = (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {asked} }}}}{{% else %}}{{{{ {said} }}}}{{% endif %}}{{% endfor %}}"
    )
    return f"{bos}{{{{ {_literal(begin)} }}}}{turns}{_at_the_end(prefill)}"


def _asked(section: PromptSection) -> str:
    """An expression: the instruction around a turn of the user."""
    return f" + {_CONTENT} + ".join(_literal(part) for part in section.instruction.split(_PLACE))


def _at_the_end(prefill: str) -> str:
    return f"{{% if add_generation_prompt %}}{{{{ {_literal(prefill)} }}}}{{% endif %}}" if prefill else ""


def _statements(statements: Sequence[str]) -> str:
    return "".join(f"{{% {statement} %}}" for statement in statements)


def _literal(value: object) -> str:
    """A text, or a list of turns, as Jinja reads it."""
    return json.dumps(value, ensure_ascii=False)
