"""Conversations as token ids: what is trained on follows the prompt that the model would see, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.errors import ModelError, TaskError
from rethink.model.text.r1_template import render_r1_zero
from rethink.model.text.training_text import ConversationRenderer, Document
from rethink.model.tokenizer.tokenizer import Tokenizer
from tests.conftest import CHATML

# As the templates of reasoning models do: earlier turns lose their thought.
DROPS = CHATML.replace(
    "{{ message['content'] }}",
    "{% if message['role'] == 'assistant' %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}",
)
# As DeepSeek-R1's: the generation prompt opens the thought.
OPENS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# A space between the turn and its end, and nothing else that ends a turn.
SPACED = CHATML.replace("<|im_end|>\n{% endfor %}", " <|im_end|>\n{% endfor %}")
STRIPS = CHATML.replace("{{ message['content'] }}", "{{ message['content'] | trim }}")
SILENT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}{% endif %}{% endfor %}"
)


def with_template(tokenizer: Tokenizer, template: str | None) -> Tokenizer:
    return Tokenizer(tokenizer.backend, {**tokenizer.config, "chat_template": template}, tokenizer._generation)


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system is not None else []
    return head + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def parts(tokenizer: Tokenizer, document: Document) -> list[tuple[bool, str]]:
    """Stretches of the text, each with whether it is trained on."""
    out: list[tuple[bool, list[int]]] = []
    for token, trained in zip(document.token_ids.tolist(), document.trained.tolist(), strict=True):
        if not out or out[-1][0] != trained:
            out.append((trained, []))
        out[-1][1].append(token)
    return [(trained, tokenizer.decode(ids)) for trained, ids in out]


def test_one_turn(small_tokenizer: Tokenizer) -> None:
    document = ConversationRenderer(small_tokenizer, "chat").render(turns("1 + 1?", "<think>a</think> 2"), "here")
    assert parts(small_tokenizer, document) == [
        (False, "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "<think>a</think> 2<|im_end|>"),
    ]
    # The prompt's ids are those that the engine would be given.
    prompt = small_tokenizer.encode(small_tokenizer.render_chat(turns("1 + 1?"), add_generation_prompt=True))
    assert document.token_ids[: len(prompt)].tolist() == prompt
    assert document.trained.argmax() == len(prompt)
    assert document.target_tokens == len(document.token_ids) - len(prompt)


def test_every_turn_or_the_last(small_tokenizer: Tokenizer) -> None:
    messages = turns("a?", "A.", "b?", "B.", "c?", "C.")
    every = ConversationRenderer(small_tokenizer, "chat").render(messages, "here")
    last = ConversationRenderer(small_tokenizer, "chat", turns="last").render(messages, "here")
    assert [text for trained, text in parts(small_tokenizer, every) if trained] == [
        "A.<|im_end|>",
        "B.<|im_end|>",
        "C.<|im_end|>",
    ]
    assert [text for trained, text in parts(small_tokenizer, last) if trained] == ["C.<|im_end|>"]
    assert every.token_ids.tolist() == last.token_ids.tolist()
    whole = small_tokenizer.render_chat(messages, add_generation_prompt=False).rstrip("\n")
    assert small_tokenizer.decode(every.token_ids) == whole


def test_a_turn_that_is_context_is_shown_and_not_trained_on(small_tokenizer: Tokenizer) -> None:
    messages = turns("a?", "A.", "b?", "B.", "c?", "C.")
    messages[1]["untrained"] = messages[5]["untrained"] = "`weight`"
    document = ConversationRenderer(small_tokenizer, "chat").render(messages, "here")
    assert parts(small_tokenizer, document) == [
        (False, small_tokenizer.render_chat(turns("a?", "A.", "b?"), add_generation_prompt=True)),
        (True, "B.<|im_end|>"),
    ]
    with pytest.raises(TaskError, match=r"here: the last turn .* by its `weight`, and with turns=l"):
        ConversationRenderer(small_tokenizer, "chat", turns="last").render(messages, "here")


def test_what_follows_the_last_trained_turn_is_left_out(small_tokenizer: Tokenizer) -> None:
    document = ConversationRenderer(small_tokenizer, "chat").render(turns("a?", "A."), "here")
    assert document.trained[-1]
    assert small_tokenizer.decode(document.token_ids[-1:]) == "<|im_end|>"


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_system_message_of_the_recipe_gives_way_to_that_of_the_row(
    small_tokenizer: Tokenizer, system: str | None
) -> None:
    renderer = ConversationRenderer(small_tokenizer, "chat", system="Be kind.")
    text = small_tokenizer.decode(renderer.render(turns("a?", "A.", system=system), "here").token_ids)
    assert text.startswith(f"<|im_start|>system\n{system or 'Be kind.'}<|im_end|>\n")
    assert text.count("system") == 1


def test_a_template_that_drops_thoughts_is_found_out(small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(small_tokenizer, DROPS)
    messages = turns("a?", "<think>x</think>A.", "b?", "<think>y</think>B.")
    with pytest.raises(TaskError, match=r"rows, line 2: .*cuts <think> out of the assistant's turn 1.*turns=last"):
        ConversationRenderer(tokenizer, "chat").render(messages, "rows, line 2")
    # The last turn behind the prompt that the model would be given: nothing of it is lost.
    document = ConversationRenderer(tokenizer, "chat", turns="last").render(messages, "here")
    prompt, trained = parts(tokenizer, document)
    assert "<think>" not in prompt[1]
    assert trained == (True, "<think>y</think>B.<|im_end|>")
    # One turn alone: the template never sees it.
    single = ConversationRenderer(tokenizer, "chat").render(messages[:2], "here")
    assert parts(tokenizer, single)[-1] == (True, "<think>x</think>A.<|im_end|>")


def test_a_template_that_rewrites_turns_is_found_out(small_tokenizer: Tokenizer) -> None:
    renderer = ConversationRenderer(with_template(small_tokenizer, STRIPS), "chat")
    with pytest.raises(TaskError, match=r"rewrites the assistant's turn 2"):
        renderer.render(turns("a?", "A.", "b?", "B. ", "c?", "C."), "here")
    assert renderer.render(turns("a?", "A.", "b?", "B."), "here").target_tokens


def test_a_thought_that_the_template_opens_is_written_once(small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(small_tokenizer, OPENS)
    renderer = ConversationRenderer(tokenizer, "chat")
    for content in ("<think>\nx</think>A.", "<think>x</think>A."):
        document = renderer.render(turns("a?", content), "here")
        assert parts(tokenizer, document)[-1] == (True, "x</think>A.<|im_end|>")
        assert tokenizer.decode(document.token_ids).count("<think>") == 1
    with pytest.raises(TaskError, match=r"line 7: .*begins the assistant's turn with <think>.*no thought: 'A\.'"):
        renderer.render(turns("a?", "A."), "line 7")


def test_the_end_is_the_templates_own(small_tokenizer: Tokenizer) -> None:
    document = ConversationRenderer(with_template(small_tokenizer, SPACED), "chat").render(turns("a?", "A."), "here")
    assert parts(small_tokenizer, document)[-1] == (True, "A. <|im_end|>")


def test_an_end_in_the_text_is_not_written_twice_and_not_allowed_inside(small_tokenizer: Tokenizer) -> None:
    renderer = ConversationRenderer(small_tokenizer, "chat")
    ended = renderer.render(turns("a?", "A.<|im_end|>\n"), "here")
    assert ended.token_ids.tolist() == renderer.render(turns("a?", "A."), "here").token_ids.tolist()
    with pytest.raises(TaskError, match=r"line 3: .*holds the token '<\|im_end\|>'"):
        renderer.render(turns("a?", "A.<|im_end|>B."), "line 3")


def test_without_a_chat_template(small_tokenizer: Tokenizer) -> None:
    bare = with_template(small_tokenizer, None)
    with pytest.raises(ModelError, match=r"no chat template.*prompt\.template to r1-zero or raw"):
        ConversationRenderer(bare, "chat")
    with pytest.raises(ModelError, match=r"drops or repeats the assistant's turn.*prompt\.template"):
        ConversationRenderer(with_template(small_tokenizer, SILENT), "chat")
    raw = ConversationRenderer(bare, "raw").render(turns("Q: 1 + 1? A:", " 2"), "here")
    end = bare.id_to_token(bare.eos_id or 0)
    assert parts(bare, raw) == [(False, "Q: 1 + 1? A:"), (True, f" 2{end}")]
    zero = ConversationRenderer(bare, "r1-zero").render(turns("1 + 1?", "<think>a</think>"), "here")
    assert parts(bare, zero) == [(False, render_r1_zero("1 + 1?")), (True, f" <think>a</think>{end}")]
    with pytest.raises(TaskError, match=r"one user turn and one assistant turn.*prompt\.template=chat"):
        ConversationRenderer(bare, "raw").render(turns("a", "b", "c", "d"), "here")


def test_an_empty_prompt_trains_from_the_second_token_on(small_tokenizer: Tokenizer) -> None:
    document = ConversationRenderer(small_tokenizer, "raw").render(turns("", "hello there"), "here")
    assert not document.trained[0]
    assert document.trained[1:].all()


def test_a_token_across_the_edge_is_cut_there(small_tokenizer: Tokenizer) -> None:
    """Where the tokenizer would join the end of the prompt with the beginning of the completion, it is kept from it."""
    for prompt, completion in (("a\n", "\nb"), ("th", "e rest"), ("x ", " y")):
        document = ConversationRenderer(small_tokenizer, "raw").render(turns(prompt, completion), "here")
        ids = small_tokenizer.encode(prompt)
        assert document.token_ids[: len(ids)].tolist() == ids
        assert document.trained.tolist() == [False] * len(ids) + [True] * (len(document.token_ids) - len(ids))


def test_a_refusal_of_the_template_names_the_row(small_tokenizer: Tokenizer) -> None:
    refuses: Any = CHATML + "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    renderer = ConversationRenderer(with_template(small_tokenizer, refuses), "chat")
    with pytest.raises(TaskError, match=r"line 4: .*no system"):
        renderer.render(turns("a?", "A.", system="s"), "line 4")


CLOSES = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")


@pytest.mark.parametrize(
    ("answer", "trained"),
    [
        ("4", "4<|im_end|>"),
        ("<think>\n\n</think>\n\n4", "4<|im_end|>"),
        (" <think></think>4", "4<|im_end|>"),
        ("<think>\nadd\n</think>\n\n4", None),
        (" <think>x</think> y", None),
        ("So <think>x</think> y", None),
        ("<think></think><think>x</think> y", None),
        ("<think>x", None),
        ("<think></think>", None),
    ],
)
def test_a_thought_that_the_prompt_closes_is_not_written_twice(
    small_tokenizer: Tokenizer, answer: str, trained: str | None
) -> None:
    tokenizer = with_template(small_tokenizer, CLOSES)
    renderer = ConversationRenderer(tokenizer, "chat")
    if trained is None:
        with pytest.raises(TaskError, match=r"line 3.*closed the thought"):
            renderer.render(turns("2+2?", answer), "line 3")
        return
    prompt, completion = parts(tokenizer, renderer.render(turns("2+2?", answer), "line 3"))
    assert prompt[1].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert completion == (True, trained)


def test_a_template_without_a_generation_prompt_cannot_be_trained_on(small_tokenizer: Tokenizer) -> None:
    without = CHATML.partition("{% if add_generation_prompt %}")[0]
    with pytest.raises(ModelError, match=r"no generation prompt.*im_start\|>assistant"):
        ConversationRenderer(with_template(small_tokenizer, without), "chat")
