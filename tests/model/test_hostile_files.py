"""Model files from strangers: whatever they hold, the answer is soon there, small, and one of our errors."""

import json
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from rethink.errors import ModelError
from rethink.model.gguf.tensors import GgufModel
from rethink.model.loading import load_checkpoint
from tests.model.gguf.test_tensors import tensors_of, typed_tensor, write_gguf

FolderMaker = Callable[..., Path]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(*pairs: bytes, tensors: int = 0, version: int = 3, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(pairs) if count is None else count) + b"".join(pairs)


def array(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + data


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE: dict[str, bytes] = {
    "array of 2^40 in 49 bytes": header(array("k", 4, 1 << 40)),
    "array of 2^63": header(array("k", 0, 1 << 63)),
    "texts without end": header(array("k", 8, 1 << 22)),
    "arrays in arrays": header(array("k", 9, 1 << 40, struct.pack("<IQ", 9, 1 << 40) * 50)),
    "arrays in arrays in arrays": header(text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
    "keys without end": header(count=1 << 60),
    "tensors without end": header(tensors=1 << 60),
    "a key of 2^62 letters": header(struct.pack("<Q", 1 << 62)),
    "a text of 2^62 letters": header(text("k") + struct.pack("<IQ", 8, 1 << 62)),
    "an unknown type of value": header(text("k") + struct.pack("<I", 99)),
    "a key that is no UTF-8": header(struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<II", 4, 1)),
    "the same key twice": header(*[text("k") + struct.pack("<II", 4, 1)] * 2),
    "an alignment of zero": header(text("general.alignment") + struct.pack("<II", 4, 0)),
    "an alignment that is text": header(text("general.alignment") + struct.pack("<I", 8) + text("many")),
    "a tensor beyond the end": header(tensors=1) + tensor("token_embd.weight", (1 << 40, 1 << 20)),
    "a tensor at 2^63": header(tensors=1) + tensor("token_embd.weight", (4, 4), offset=1 << 63),
    "a tensor of 2^31 axes": header(tensors=1) + text("t") + struct.pack("<I", 1 << 31),
    "a tensor of no size": header(tensors=1) + tensor("token_embd.weight", (0, 4)),
    "half a block": header(tensors=1) + tensor("token_embd.weight", (16, 4), kind=2) + b"\0" * 64,
    "no pairs": header(),
    "version 0": header(version=0),
    "version 1": header(version=1),
    "version 2^31": header(version=1 << 31),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_gguf_is_an_error_of_one_paragraph(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ModelError, match=r"GGUF|token embedding") as caught:
        GgufModel(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_hostile_headers_take_neither_memory_nor_time(tmp_path: Path) -> None:
    """All of them in a process of 3 GiB address space and 60 s: a reader that follows the counts ends on either."""
    for number, data in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}.gguf").write_bytes(data)
    code = (
        "import sys, pathlib\nfrom rethink.model.gguf.tensors import GgufModel\nfrom rethink.errors import ModelError\n"
        "for path in pathlib.Path(sys.argv[1]).glob('*.gguf'):\n"
        "    try:\n        GgufModel(path)\n    except ModelError:\n        continue\n    raise SystemExit(path)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, preexec_fn=limit, timeout=300)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K"])
def test_big_endian_file_is_refused_as_such(tmp_path: Path, kind: str) -> None:
    (data, stored), _ = typed_tensor(kind, (32, 256))
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_uint32("llama.block_count", 2)
    writer.add_tensor("blk.0.ffn_down.weight", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert path.read_bytes()[4:8] == b"\0\0\0\3"
    with pytest.raises(ModelError, match="big-endian"):
        load_checkpoint(str(path), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"block_count": 3_000_000}, "num_layers is 3000000"),
        ({"attention.head_count": 1 << 31}, "num_heads"),
        ({"context_length": 0}, "max_position_embeddings"),
        ({"rope.freq_base": float("nan")}, "rope.freq_base"),
        ({"attention.layer_norm_rms_epsilon": float("inf")}, "layer_norm_rms_epsilon"),
        ({"rope.freq_base": 1e30}, "rope_theta"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"rope.scaling.factor": 4.0}, "rope.scaling.factor"),
        ({"rope.scale_linear": 4.0}, "rope.scale_linear"),
        ({"logit_scale": 0.5}, "logit_scale"),
        ({"attention.scale": 0.1}, "attention.scale"),
        ({"something.new": "on"}, "something.new"),
        ({"rope.scaling.factor": 1.0, "vocab_size": 7}, None),
    ],
)
def test_absurd_and_unknown_values_of_a_header_are_named(
    tiny_folder: FolderMaker, tmp_path: Path, vocabulary_fields: Any, extra: dict[str, Any], named: str | None
) -> None:
    tensors, config = tensors_of(tiny_folder("llama"))
    path = write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary_fields("gpt2", "qwen2"), **extra)
    if named is None:
        GgufModel(path)
        return
    with pytest.raises(ModelError, match=named) as caught:
        GgufModel(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer.ggml.model", 3),
        ("tokenizer.ggml.tokens", [1, 2, 3]),
        ("tokenizer.ggml.token_type", 1),
        ("tokenizer.ggml.merges", [1, 2]),
        ("tokenizer.ggml.merges", ["no-space"]),
        ("tokenizer.ggml.eos_token_id", "two"),
        ("tokenizer.ggml.eos_token_id", 1 << 31),
        ("tokenizer.ggml.tokens", ["a" * 100_000]),
    ],
)
def test_a_tokenizer_of_any_fields_is_an_error_of_ours(vocabulary_fields: Any, key: str, value: Any) -> None:
    from rethink.model.tokenizer.tokenizer import Tokenizer

    with pytest.raises(ModelError):
        Tokenizer.from_gguf_fields(vocabulary_fields("gpt2", "qwen2") | {key: value})


def test_scores_that_are_no_numbers_are_refused(vocabulary_fields: Any) -> None:
    from rethink.model.tokenizer.tokenizer import Tokenizer

    fields = vocabulary_fields("llama", "default")
    fields["tokenizer.ggml.scores"][5] = float("nan")
    with pytest.raises(ModelError, match="finite"):
        Tokenizer.from_gguf_fields(fields)


# --- folders ------------------------------------------------------------------------------------------------------


def deep(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


FILES = ["config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
TEXTS = {
    "deep": deep(200_000),
    "rather deep": deep(500),
    "half a surrogate pair": '{"a": "\\ud800"}',
    "digits": '{"a": ' + "9" * 10_000 + "}",
    "no UTF-8": b"\xff\xfe{}",
    "no object": "[]",
    "nothing": "",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", [*TEXTS, "pipe", "folder"])
def test_hostile_json_is_an_error_with_the_file(tiny_folder: FolderMaker, name: str, kind: str) -> None:
    folder = tiny_folder("llama")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        data = TEXTS[kind]
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ModelError, match=name) as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def test_files_that_are_too_large_are_not_read(tiny_folder: FolderMaker) -> None:
    folder = tiny_folder("llama")
    for name in ("config.json", "tokenizer.json"):
        kept = (folder / name).read_bytes()
        os.truncate(folder / name, 1 << 40)  # sparse: it takes no space
        with pytest.raises(ModelError, match=rf"{name}.*are allowed"):
            load_checkpoint(str(folder))
        (folder / name).write_bytes(kept)
    load_checkpoint(str(folder))


@pytest.mark.parametrize("value", ["two", [1, "x"], {"a": 1}, 2.5, -1, [[1]], True])
def test_end_of_turn_must_be_ids(tiny_folder: FolderMaker, value: Any) -> None:
    folder = tiny_folder("llama")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelError, match=r"generation_config\.json has .*eos_token_id"):
        load_checkpoint(str(folder))


def test_a_template_file_that_is_no_text_is_an_error_of_ours(tiny_folder: FolderMaker) -> None:
    folder = tiny_folder("llama")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{ 1 }}")
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        load_checkpoint(str(folder))
