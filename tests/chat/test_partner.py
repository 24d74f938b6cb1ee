"""Models in this process as partners: token by token, the same text that the engine returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.chat.partner import EngineChat, Settings, TooLong
from rethink.errors import ModelError
from rethink.eval.backend import EngineBackend
from rethink.machine.placement import Placement
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.rollout.engines import open_engine
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.types import GenerationRequest, SamplingParams

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def tiny(tiny_folder: Callable[..., Path]) -> Callable[..., EngineBackend]:
    def make(transformers: bool = False) -> EngineBackend:
        placement = Placement(1, "cpu", "float32", 1 << 24)
        name = "transformers" if transformers else "torch"
        opened = open_engine(str(tiny_folder("llama")), placement, engine=name)
        return EngineBackend("tiny", opened.engine, opened.checkpoint.tokenizer)

    return make


@pytest.mark.parametrize("transformers", [False, True])
def test_pieces_are_the_completion(tiny: Callable[..., EngineBackend], transformers: bool) -> None:
    backend = tiny(transformers)
    chat = EngineChat(backend)
    pieces: list[str] = []
    settings = Settings(temperature=1.0, max_new_tokens=40)
    ended = chat.answer(HELLO, settings, 5, pieces.append, lambda: False)
    ids = tuple(backend.tokenizer.encode(backend.tokenizer.render_chat(HELLO, add_generation_prompt=True)))
    stops = tuple(sorted(backend.tokenizer.end_of_turn_ids))
    params = SamplingParams(1.0, 0.95, 0, 40, stop_token_ids=stops)
    expected = backend.engine.generate([GenerationRequest(ids, (5,), params)])[0][0]
    assert "".join(pieces) == expected.text
    assert (ended.how, ended.tokens) == (expected.finish_reason, len(expected.token_ids))
    assert len([piece for piece in pieces if piece]) > 10


def test_a_stop_ends_the_answer_at_once_and_the_next_one_is_whole(tiny: Callable[..., EngineBackend]) -> None:
    chat = EngineChat(tiny())
    seen: list[str] = []
    settings = Settings(temperature=1.0, max_new_tokens=200)
    ended = chat.answer(HELLO, settings, 5, seen.append, lambda: len(seen) >= 4)
    assert (ended.how, ended.tokens) == ("stopped", 4)
    again: list[str] = []
    chat.answer(HELLO, settings, 5, again.append, lambda: False)
    assert "".join(again).startswith("".join(seen).rstrip("\ufffd"))


def test_a_conversation_longer_than_the_context_is_too_long(tiny: Callable[..., EngineBackend]) -> None:
    chat = EngineChat(tiny())
    messages = [{"role": "user", "content": "word " * 300}]
    assert chat.context is not None
    assert chat.count(messages) > chat.context
    with pytest.raises(TooLong):
        chat.answer(messages, Settings(), 0, lambda _: None, lambda: False)


def scripted(tokenizer: Tokenizer, text: str, template: str | None) -> EngineChat:
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.config | {"chat_template": template})
    engine = ScriptedEngine([Scripted(text)], tokenizer.encode, end_token=tokenizer.eos_id)
    return EngineChat(EngineBackend("fake", engine, tokenizer))


def test_a_thought_that_the_template_opens_is_told(small_tokenizer: Tokenizer) -> None:
    chat = scripted(small_tokenizer, "so</think>4", "{{ messages[0].content }}<think>")
    pieces: list[str] = []
    chat.answer(HELLO, Settings(), 0, pieces.append, lambda: False)
    assert "".join(pieces) == "<think>so</think>4"


def test_an_engine_that_tells_no_tokens_answers_in_one_piece(small_tokenizer: Tokenizer) -> None:
    chat = scripted(small_tokenizer, "whole", "{{ messages[0].content }}")
    whole = chat._engine.generate
    silent: Any = lambda requests, on_finish=None: whole(  # noqa: E731
        [GenerationRequest(r.prompt_ids, r.seeds, r.params) for r in requests], on_finish
    )
    chat._engine.generate = silent  # type: ignore[method-assign]
    pieces: list[str] = []
    chat.answer(HELLO, Settings(), 0, pieces.append, lambda: False)
    assert "".join(pieces) == "whole"


def test_a_model_without_a_chat_template_says_so(small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="rethink sample --model fake --raw"):
        scripted(small_tokenizer, "x", None)
    with pytest.raises(ModelError, match="template failed"):
        scripted(small_tokenizer, "x", "{{ messages[7].content.nothing.there }}")
