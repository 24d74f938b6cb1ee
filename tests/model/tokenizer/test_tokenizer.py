"""The tokenizer's special tokens and chat template, against transformers and against hostile templates."""

import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import ModelError
from rethink.model.loading import Checkpoint
from rethink.model.tokenizer import chat_template
from rethink.model.tokenizer.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "2+2? {x} 数"}, {"role": "assistant", "content": "4"}]
TEMPLATES = {
    "trim": "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n<u>{{ m['content'] | trim }}\n"
    "    {%- endif %}\n{% endfor %}x",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }} {{ bos_token }}{{ eos_token }}",
    "loop": "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "mark": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "none": "{% if tools %}tools{% elif not documents %}none{% endif %}{{ '-' * 10 }}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}
HOSTILE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append({'role': 'x'}) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ strftime_now.__self__.__reduce__() }}",
    "{{ messages | attr('__class__') | attr('__base__') | attr('__subclasses__')() }}",
    "{% for i in range(10**9) %}{% endfor %}",
    # without end
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(99) }}",
    "{% for i in range(99999) recursive %}{% if true %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
    "{{ (range(99999) | map('string') | join('a' * 9999)) | replace('a', 'aaaa' * 99999) | length }}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"
    "{{ ns.l | tojson }}",
    # without measure
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ '%1000000000d' % 1 }}{{ '%5000000000d' % 1 }}",
    "{{ '%5000000000d' | format(1) }}",
    "{{ '{:>5000000000}'.format(1) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ lipsum(n=10**7) }}",
    "{{ 'a' | indent(10**10, true) }}",
    "{{ messages | tojson(indent=10**10) }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
    "{{ [range(99999) | list] * 99999 | sum(start=[]) | length }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ [0] * 10**9 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% include '/etc/passwd' %}",
    "{{ self.__init__.__globals__ }}",
]


def with_template(folder: Path, tokenizer: Tokenizer, template: Any) -> Tokenizer:
    tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(tmp_path: Path, small_tokenizer: Tokenizer, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = with_template(tmp_path, small_tokenizer, TEMPLATES[name])
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for generation in (False, True):
        expected = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=generation)
        assert tokenizer.render_chat(MESSAGES, generation) == expected


def test_embedded_template_renders_as_in_transformers(embedded: Checkpoint) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(embedded.folder)
    system = [{"role": "system", "content": "Be brief."}]
    for messages in (MESSAGES, system + MESSAGES[:1]):
        for generation in (False, True):
            text = embedded.tokenizer.render_chat(messages, generation)
            assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
            ids = theirs.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True)["input_ids"]
            assert embedded.tokenizer.encode(text) == ids


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Less time and memory, so that the tests take less."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    monkeypatch.setattr(chat_template, "MEMORY", 1 << 28)
    monkeypatch.setattr(chat_template, "LETTERS", 1 << 20)
    chat_template._WORKER.end()
    yield
    chat_template._WORKER.end()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", HOSTILE, ids=lambda template: template[:60])
def test_hostile_templates_reach_nothing(tmp_path: Path, small_tokenizer: Tokenizer, template: str) -> None:
    tokenizer = with_template(tmp_path, small_tokenizer, template)
    with pytest.raises(ModelError, match="chat template") as caught:
        tokenizer.render_chat(MESSAGES, True)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800
    # and whatever came before, the next one is rendered
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert tokenizer.render_chat(MESSAGES, True) == MESSAGES[0]["content"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # KiB


def test_templates_are_rendered_without_keys_of_the_environment(
    tmp_path: Path, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    chat_template._WORKER.end()
    with_template(tmp_path, small_tokenizer, "x").render_chat(MESSAGES, True)
    process = chat_template._WORKER.process
    assert process is not None
    assert b"secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()


def test_any_text_comes_back_as_it_is(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(tmp_path, small_tokenizer, "{{ messages[0].content }}")
    for content in ("", "\x00\r\n\u2028{{ 1 }}{% endif %}", "\ud800", "𝔸é中" * 300_000):
        assert tokenizer.render_chat([{"role": "user", "content": content}], True) == content


def test_a_forked_process_renders_with_a_process_of_its_own(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(tmp_path, small_tokenizer, "{{ messages[0].content }}")
    tokenizer.render_chat(MESSAGES, True)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if tokenizer.render_chat(MESSAGES[:1], True) == MESSAGES[0]["content"] else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert tokenizer.render_chat(MESSAGES, True) == MESSAGES[0]["content"]


def test_template_that_refuses_or_is_broken_or_missing_says_what_to_set(
    tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    cases = {
        "{{ raise_exception('only user turns') }}": r"refuses .*user, assistant.*only user turns.*r1-zero",
        "{% for %}": "not valid Jinja.*r1-zero",
        "{{ messages[9].content.x }}": "failed .*r1-zero",
        None: "has no chat template.*r1-zero",
    }
    for template, said in cases.items():
        with pytest.raises(ModelError, match=said):
            with_template(tmp_path, small_tokenizer, template).render_chat(MESSAGES, True)


def test_the_date_in_a_prompt_does_not_depend_on_the_day(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(tmp_path, small_tokenizer, "{{ strftime_now('%d %b %Y') }}")
    assert tokenizer.render_chat(MESSAGES, True) == "26 Jul 2024"


@pytest.mark.parametrize("where", ["named", "jinja", "json"])
def test_template_is_found_wherever_it_is_kept(tmp_path: Path, small_tokenizer: Tokenizer, where: str) -> None:
    tokenizer = with_template(tmp_path, small_tokenizer, None)
    if where == "named":
        named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
        tokenizer = with_template(tmp_path, small_tokenizer, named)
    elif where == "jinja":
        (tmp_path / "chat_template.jinja").write_text("yes")
        tokenizer = Tokenizer.from_folder(tmp_path)
    else:
        path = tmp_path / "tokenizer_config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
        (tmp_path / "chat_template.json").write_text('{"chat_template": "yes"}')
        tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.render_chat(MESSAGES, True) == "yes"
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).chat_template == "yes"


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {}, {0, 2, 5, 6}),
        ({"eos_token_id": 7}, {"eos_token": {"content": "<|endoftext|>"}}, {0, 2, 7}),
        ({}, {"eos_token": None}, {0, 2}),
    ],
)
def test_end_of_turn_ids(
    tmp_path: Path, small_tokenizer: Tokenizer, generation: dict[str, Any], config: dict[str, Any], expected: set[int]
) -> None:
    small_tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.end_of_turn_ids == expected
    tokenizer.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).end_of_turn_ids == expected


def test_a_token_named_like_an_end_of_turn_in_plain_text_is_none(
    vocabulary_fields: Callable[[str, str], dict[str, Any]],
) -> None:
    fields = vocabulary_fields("gpt2", "qwen2")
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "</s>"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 1]
    assert Tokenizer.from_gguf_fields(fields).end_of_turn_ids == {0, 2}


def test_named_ids_of_the_embedded_model(embedded: Checkpoint) -> None:
    tokenizer = embedded.tokenizer
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.end_of_turn_ids == {0, 2}
    assert tokenizer.vocab_size == 49152
    assert not tokenizer.adds_bos


def test_bytes_that_are_no_text_decode_to_the_replacement_character(small_tokenizer: Tokenizer) -> None:
    ids = small_tokenizer.encode("数")
    assert small_tokenizer.decode(ids) == "数"
    assert "�" in small_tokenizer.decode(small_tokenizer.encode("🇩")[:1])
