"""Tokenizers out of GGUF files give llama.cpp's ids (golden/make_tokenizer_goldens.py made them)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import ModelError
from rethink.model.gguf.tensors import GgufModel
from rethink.model.loading import Checkpoint
from rethink.model.tokenizer.gguf_tokenizer import PRE_TOKENIZERS
from rethink.model.tokenizer.tokenizer import Tokenizer

FieldMaker = Callable[[str, str], dict[str, Any]]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "llama_cpp.json").read_text("utf-8"))
SMALL = sorted(key for key in GOLDEN["ids"] if "/" in key)
QWEN_VARIABLE = "RETHINK_TEST_QWEN_GGUF"
# llama.cpp's pattern for tekken knows no marks and no capitals beyond A to Z; ours is that of the model's own
# tokenizer.json, so texts with combining marks or accented capitals differ on purpose.
TEKKEN_DIFFERS = ("עברית", "Ångström", "ÉCOLE")


def differences(tokenizer: Tokenizer, name: str) -> list[str]:
    pairs = zip(GOLDEN["texts"], GOLDEN["ids"][name], strict=True)
    return [text for text, ids in pairs if tokenizer.encode(text) != ids]


@pytest.mark.parametrize("name", SMALL)
def test_small_vocabularies_give_the_ids_of_llama_cpp(vocabulary_fields: FieldMaker, name: str) -> None:
    tokenizer = Tokenizer.from_gguf_fields(vocabulary_fields(*name.split("/")))
    different = differences(tokenizer, name)
    if name == "gpt2/tekken":
        assert all(any(part in text for part in TEKKEN_DIFFERS) for text in different)
    else:
        assert not different
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in GOLDEN["texts"])


def test_every_pre_tokenizer_has_its_golden_and_they_tell_them_apart() -> None:
    assert {f"gpt2/{pre}" for pre in PRE_TOKENIZERS} | {"llama/default"} == set(SMALL)
    kinds = {json.dumps(GOLDEN["ids"][f"gpt2/{pre}"]) for pre in PRE_TOKENIZERS}
    assert len(kinds) == len(set(PRE_TOKENIZERS.values()))


def test_embedded_tokenizer_gives_the_ids_of_llama_cpp(embedded: Checkpoint) -> None:
    assert not differences(embedded.tokenizer, "SmolLM2-135M-Instruct")
    assert embedded.tokenizer.encode("2024") == [embedded.tokenizer.token_to_id(digit) for digit in "2024"]


@pytest.mark.skipif(QWEN_VARIABLE not in os.environ, reason=f"{QWEN_VARIABLE} names no Qwen2.5 GGUF file")
def test_qwen_tokenizer_gives_the_ids_of_llama_cpp() -> None:
    tokenizer = Tokenizer.from_gguf_fields(GgufModel(Path(os.environ[QWEN_VARIABLE])).fields)
    assert not differences(tokenizer, "Qwen2.5-Coder-0.5B-Instruct")
    assert len(tokenizer.end_of_turn_ids) == 2


def test_saved_tokenizer_gives_the_same_ids_here_and_in_transformers(
    vocabulary_fields: FieldMaker, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    for name in SMALL:
        tokenizer = Tokenizer.from_gguf_fields(vocabulary_fields(*name.split("/")))
        folder = tmp_path / name
        folder.mkdir(parents=True)
        tokenizer.save(folder)
        again, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
        for text in GOLDEN["texts"]:
            assert again.encode(text) == tokenizer.encode(text)
            assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
        assert again.adds_bos is tokenizer.adds_bos
        assert again.end_of_turn_ids == tokenizer.end_of_turn_ids


def test_special_tokens_and_their_kinds(vocabulary_fields: FieldMaker) -> None:
    fields = vocabulary_fields("gpt2", "qwen2")
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "<think>", "[PAD9]"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 4, 5]
    tokenizer = Tokenizer.from_gguf_fields(fields)
    think = tokenizer.token_to_id("<think>")
    assert think is not None
    assert tokenizer.encode("a<think><|im_end|>") == [*tokenizer.encode("a"), think, 2]
    assert tokenizer.decode([think, 2], skip_special=True) == "<think>"
    assert tokenizer.decode([think, 2]) == "<think><|im_end|>"
    assert tokenizer.token_to_id("[PAD9]") is None
    assert tokenizer.vocab_size == len(fields["tokenizer.ggml.tokens"]) - 1
    assert tokenizer.decode([think + 1, 10**6]) == ""


@pytest.mark.parametrize(("kind", "pre", "declared", "added"), [
    ("gpt2", "qwen2", None, False),
    ("gpt2", "qwen2", True, True),
    ("gpt2", "llama-bpe", None, True),
    ("gpt2", "llama-bpe", False, False),
    ("llama", "default", None, True),
])  # fmt: skip
def test_beginning_of_text_is_added_where_the_file_or_its_kind_says_so(
    vocabulary_fields: FieldMaker, kind: str, pre: str, declared: bool | None, added: bool
) -> None:
    fields = vocabulary_fields(kind, pre)
    if declared is not None:
        fields["tokenizer.ggml.add_bos_token"] = declared
    tokenizer = Tokenizer.from_gguf_fields(fields)
    assert tokenizer.adds_bos is added
    assert tokenizer.encode("") == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": "bert"}, "'bert'; known are gpt2"),
        ({"pre": "mystery"}, "'mystery'.*smollm"),
        ({"pre": None}, "does not say its pre-tokenizer"),
        ({"tokens": []}, "no tokens"),
        ({"token_type": [1]}, "1 token types"),
        ({"merges": None}, "no merges"),
        ({"merges": ["abc"]}, "'abc', which is not two tokens"),
        ({"merges": ["qqqq zzzz"]}, "contradicts itself"),
        ({"eos_token_id": 10**6}, "1000000 as eos"),
    ],
)
def test_unusable_fields_are_named(vocabulary_fields: FieldMaker, changes: dict[str, Any], named: str) -> None:
    fields = vocabulary_fields("gpt2", "qwen2") | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(ModelError, match=named):
        Tokenizer.from_gguf_fields({key: value for key, value in fields.items() if value is not None}, "m.gguf")


def test_sentencepiece_without_scores_is_refused(vocabulary_fields: FieldMaker) -> None:
    fields = vocabulary_fields("llama", "default")
    del fields["tokenizer.ggml.scores"]
    with pytest.raises(ModelError, match="no score"):
        Tokenizer.from_gguf_fields(fields)
