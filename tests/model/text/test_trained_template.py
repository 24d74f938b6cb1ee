"""A chat template renders conversations as a run's prompt does, or there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.trained_template import trained_template
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.schema import PromptSection

CUTS_THOUGHTS = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'].split('</think>')[-1] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}\n"
)
EXAMPLES = (
    {"question": 'Say "a"\n{% x %} é🙂', "completion": "<think>'\"\n{{ 1 }}</think>\n b"},
    {"question": "2", "completion": "<think>'\"\nc"},
)
TURNS = [
    {"role": "user", "content": "{question} and {{ 1 }}"},
    {"role": "assistant", "content": "I see."},
    {"role": "user", "content": "last"},
]


@pytest.mark.parametrize("template", ["chat", "r1-zero", "raw"])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prefill": "<think>"},
        {"examples": EXAMPLES, "instruction": "Twice: {question}, {question}\n%}", "prefill": "<think>'\"\n"},
    ],
)
def test_it_renders_what_the_prompt_renders(template: Any, values: dict[str, Any], small_tokenizer: Tokenizer) -> None:
    section = PromptSection(template=template, **values)
    made = copy.copy(small_tokenizer)
    made.chat_template = trained_template(small_tokenizer, section)
    assert made.chat_template is not None
    renderer = PromptRenderer(small_tokenizer, section, 1 << 20)
    for turns in (TURNS[:1], TURNS):
        assert made.render_chat(turns, add_generation_prompt=True) == renderer.render_turns(turns).text


def test_a_system_message_of_the_conversation_comes_before_that_of_the_run(small_tokenizer: Tokenizer) -> None:
    section = PromptSection(system="of the run", examples=EXAMPLES[1:])  # type: ignore[arg-type]
    made = copy.copy(small_tokenizer)
    made.chat_template = trained_template(small_tokenizer, section)
    renderer = PromptRenderer(small_tokenizer, section, 1 << 20)
    for before, said in (([], "of the run"), ([{"role": "system", "content": "mine"}], "mine")):
        text = made.render_chat([*before, TURNS[0]], add_generation_prompt=True)
        assert text == renderer.render_turns([*before, TURNS[0]]).text
        assert text.startswith(f"<|im_start|>system\n{said}<|im_end|>")


def test_there_is_none_where_the_model_s_own_cuts_the_examples(small_tokenizer: Tokenizer) -> None:
    cutting = copy.copy(small_tokenizer)
    cutting.chat_template = CUTS_THOUGHTS
    assert trained_template(cutting, PromptSection(examples=EXAMPLES)) is None  # type: ignore[arg-type]
    assert trained_template(cutting, PromptSection(prefill="a")) is not None
