"""Tokenizers into GGUF fields and back: the same ids, or an error that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from rethink.errors import ModelError
from rethink.model.gguf.vocabulary import NFC_NOTE, TEKKEN_NOTE, TEXTS, _every_script, _pieces, gguf_fields
from rethink.model.loading import Checkpoint
from rethink.model.tokenizer.gguf_tokenizer import CONTROL, PRE_TOKENIZERS, UNUSED, USER_DEFINED, cutter
from rethink.model.tokenizer.tokenizer import Tokenizer
from tests.model.tokenizer.test_gguf_tokenizer import GOLDEN

FieldMaker = Callable[[str, str], dict[str, Any]]


def backend_of(tokenizer: Tokenizer) -> Backend:
    return Backend.from_str(tokenizer.backend.to_str())


def changed(tokenizer: Tokenizer, change: Callable[[Backend], None], **config: Any) -> Tokenizer:
    """The tokenizer after a change of its library object."""
    backend = backend_of(tokenizer)
    change(backend)
    return Tokenizer(backend, tokenizer.config | {"chat_template": tokenizer.chat_template} | config)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_byte_level_tokenizers_come_back(vocabulary_fields: FieldMaker, pre: str) -> None:
    first = vocabulary_fields("gpt2", pre)
    tokenizer = Tokenizer.from_gguf_fields(first)
    fields, notes = gguf_fields(tokenizer, len(first["tokenizer.ggml.tokens"]), "it")
    assert notes == ((TEKKEN_NOTE,) if pre == "tekken" else ())
    assert PRE_TOKENIZERS[fields["tokenizer.ggml.pre"]] == PRE_TOKENIZERS[pre]
    same = ("tokens", "merges", "token_type", "bos_token_id", "eos_token_id", "padding_token_id")
    assert all(fields[f"tokenizer.ggml.{key}"] == first[f"tokenizer.ggml.{key}"] for key in same)
    again = Tokenizer.from_gguf_fields(fields)
    assert all(again.encode(text) == tokenizer.encode(text) for text in (*GOLDEN["texts"], *TEXTS))
    assert again.adds_bos == tokenizer.adds_bos
    assert again.end_of_turn_ids == tokenizer.end_of_turn_ids


def test_sentencepiece_tokenizers_come_back(vocabulary_fields: FieldMaker) -> None:
    first = vocabulary_fields("llama", "default")
    tokenizer = Tokenizer.from_gguf_fields(first)
    fields, _ = gguf_fields(tokenizer, len(first["tokenizer.ggml.tokens"]), "it")
    assert fields["tokenizer.ggml.token_type"] == first["tokenizer.ggml.token_type"]
    again = Tokenizer.from_gguf_fields(fields)
    assert all(again.encode(text) == tokenizer.encode(text) for text in (*GOLDEN["texts"], *TEXTS))


def test_the_texts_tell_all_known_pre_tokenizers_apart() -> None:
    distinct = set(PRE_TOKENIZERS.values())
    cuts = {json.dumps([_pieces(cutter(pre), text) for text in TEXTS]) for pre in distinct}
    # Where they differ in whole words only, the cuts are alike.
    assert len(cuts) == len({pre.patterns for pre in distinct})


def test_the_names_come_from_what_the_tokenizer_does_and_not_from_how_it_is_spelled(small_tokenizer: Tokenizer) -> None:
    spelled_otherwise = (
        r"(?i:'t|'s|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )

    def respell(backend: Backend) -> None:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = pre_tokenizers.Split(Regex(spelled_otherwise), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])

    fields, _ = gguf_fields(changed(small_tokenizer, respell), 2000, "it")
    assert fields["tokenizer.ggml.pre"] == "qwen2"


def test_ids_without_a_token_are_filled_up(small_tokenizer: Tokenizer) -> None:
    size = small_tokenizer.vocab_size
    fields, _ = gguf_fields(small_tokenizer, size + 3, "it")
    assert fields["tokenizer.ggml.tokens"][size:] == [f"[PAD{size + i}]" for i in range(3)]
    assert fields["tokenizer.ggml.token_type"][size:] == [UNUSED] * 3


def test_added_tokens_keep_whether_they_are_special(small_tokenizer: Tokenizer) -> None:
    def add(backend: Backend) -> None:
        backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
        backend.add_special_tokens([AddedToken("<|eom_id|>", special=True, normalized=False)])

    tokenizer = changed(small_tokenizer, add)
    fields, _ = gguf_fields(tokenizer, tokenizer.vocab_size, "it")
    think, end = tokenizer.token_to_id("<think>"), tokenizer.token_to_id("<|eom_id|>")
    assert think is not None
    assert end is not None
    assert fields["tokenizer.ggml.token_type"][think] == USER_DEFINED
    assert fields["tokenizer.ggml.token_type"][end] == CONTROL
    assert fields["tokenizer.ggml.eom_token_id"] == end
    assert Tokenizer.from_gguf_fields(fields).encode("a<think>b") == tokenizer.encode("a<think>b")


def test_an_end_that_only_this_model_knows_is_written(small_tokenizer: Tokenizer) -> None:
    backend = backend_of(small_tokenizer)
    backend.add_special_tokens(["<|finis|>"])
    ends = [small_tokenizer.eos_id, backend.token_to_id("<|finis|>")]
    config = small_tokenizer.config
    tokenizer = Tokenizer(backend, config, {"eos_token_id": ends})
    fields, _ = gguf_fields(tokenizer, tokenizer.vocab_size, "it")
    assert fields["tokenizer.ggml.eot_token_id"] == ends[1]
    assert Tokenizer.from_gguf_fields(fields).end_of_turn_ids == tokenizer.end_of_turn_ids


def test_composition_of_characters_is_noted(small_tokenizer: Tokenizer) -> None:
    def compose(backend: Backend) -> None:
        backend.normalizer = normalizers.NFC()

    _, notes = gguf_fields(changed(small_tokenizer, compose), 2000, "it")
    assert notes == (NFC_NOTE,)


def lower_case(backend: Backend) -> None:
    backend.normalizer = normalizers.Lowercase()


def cut_at_spaces(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def begin_with_space(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def marks_in_words(backend: Backend) -> None:
    """As qwen2, but marks belong to their words: a text without marks shows no difference."""
    letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    rest = r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(letters + rest), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])


def swallow_spaces(backend: Backend) -> None:
    backend.add_special_tokens([AddedToken("<|wide|>", lstrip=True, rstrip=True)])


def end_texts(backend: Backend) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", backend.token_to_id("<|im_end|>"))]
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lower_case, "normalises text"),
        (cut_at_spaces, "a way of its own"),
        (begin_with_space, "a way of its own"),
        (marks_in_words, "a way of its own"),
        (swallow_spaces, "otherwise"),
        (end_texts, "more than a beginning"),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    small_tokenizer: Tokenizer, change: Callable[[Backend], None], reason: str
) -> None:
    tokenizer = changed(small_tokenizer, change)
    with pytest.raises(ModelError, match=reason) as caught:
        gguf_fields(tokenizer, 2000, "mine")
    assert "tokenizer of mine" in str(caught.value)
    assert "--to hf" in str(caught.value)


def test_another_kind_of_tokenizer_is_refused() -> None:
    backend = Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ModelError, match="WordLevel"):
        gguf_fields(Tokenizer(backend, {}), 2, "it")


@pytest.mark.slow
def test_the_embedded_tokenizer_gets_the_fields_that_its_file_has(embedded: Checkpoint) -> None:
    from rethink.model.embedded import embedded_gguf
    from rethink.model.gguf.tensors import GgufModel

    assert embedded.config is not None
    fields, _ = gguf_fields(embedded.tokenizer, embedded.config.vocab_size, "embedded")
    its_own = {k: v for k, v in GgufModel(embedded_gguf()).fields.items() if k.startswith("tokenizer.")}
    assert its_own.items() <= fields.items()


def test_characters_of_every_script_are_tried() -> None:
    text = _every_script()
    assert all(any(low <= ord(c) <= high for c in text) for low, high in [(0x600, 0x6FF), (0x4E00, 0x9FFF)])
    assert len(text) > 5000
