"""The ids that `rethink sample` sends to an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rethink.model.trained import render_messages
from rethink.rollout.one_prompt import _raw


def tokenizer(bos: int | None, adds_bos: bool) -> Any:
    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        turns = "".join(f"<{message['role'][0]}>{message['content']}" for message in messages)
        return turns + "<a>" * add_generation_prompt

    found = SimpleNamespace(bos_id=bos, adds_bos=adds_bos, encode=lambda text: list(text.encode()))
    found.render_chat = render
    return found


@pytest.mark.parametrize(
    ("bos", "adds_bos", "begin"), [(1, True, (1,)), (0, True, (0,)), (1, False, ()), (None, True, ())]
)
def test_a_raw_prompt_begins_as_the_tokenizer_says(bos: int | None, adds_bos: bool, begin: tuple[int, ...]) -> None:
    assert _raw(tokenizer(bos, adds_bos), "hi").token_ids == (*begin, *b"hi")


def test_a_conversation_is_the_template_s_own() -> None:
    model = tokenizer(1, True)
    user = {"role": "user", "content": "hi"}
    assert bytes(render_messages(model, [user], None).token_ids) == b"<u>hi<a>"
    for system in ("", "be"):
        prompt = render_messages(model, [{"role": "system", "content": system}, user], None)
        assert bytes(prompt.token_ids) == f"<s>{system}<u>hi<a>".encode()
