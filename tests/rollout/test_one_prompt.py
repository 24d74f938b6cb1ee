"""The ids that `rethink sample` sends to an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rethink.rollout.one_prompt import _prompt_ids


def checkpoint(bos: int | None, adds_bos: bool) -> Any:
    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        turns = "".join(f"<{message['role'][0]}>{message['content']}" for message in messages)
        return turns + "<a>" * add_generation_prompt

    tokenizer = SimpleNamespace(bos_id=bos, adds_bos=adds_bos, encode=lambda text: list(text.encode()))
    tokenizer.render_chat = render
    return SimpleNamespace(tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("bos", "adds_bos", "begin"), [(1, True, (1,)), (0, True, (0,)), (1, False, ()), (None, True, ())]
)
def test_a_raw_prompt_begins_as_the_tokenizer_says(bos: int | None, adds_bos: bool, begin: tuple[int, ...]) -> None:
    assert _prompt_ids(checkpoint(bos, adds_bos), "hi") == (*begin, *b"hi")


def test_a_conversation_is_the_template_s_own() -> None:
    model = checkpoint(1, True)
    user = {"role": "user", "content": "hi"}
    assert bytes(_prompt_ids(model, [user])) == b"<u>hi<a>"
    assert bytes(_prompt_ids(model, [{"role": "system", "content": ""}, user])) == b"<s><u>hi<a>"
    assert bytes(_prompt_ids(model, [{"role": "system", "content": "be"}, user])) == b"<s>be<u>hi<a>"
