"""GGUF files: every tensor type by an independent formula, the rotary order, and files that are not whole."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rethink.errors import ModelError, StorageFailure
from rethink.model.decoder.config import Llama3RopeScaling
from rethink.model.gguf.shape import llama3_divisors
from rethink.model.gguf.tensors import SUPPORTED_TYPES, GgufModel
from rethink.model.loading import load_checkpoint

Array = NDArray[Any]
TensorMap = dict[str, tuple[Array, gguf.GGMLQuantizationType | None]]
Q = gguf.GGMLQuantizationType
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, inner = stem.split(".", 3)
        return f"blk.{layer}.{NAMES[inner]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def in_llama_order(weight: Array, heads: int) -> Array:
    """What llama.cpp's converter does to query and key rows: halves of a head become neighbours."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def tensors_of(folder: Path) -> tuple[TensorMap, Any]:
    """Tensors of a Hugging Face folder as a GGUF of its architecture has them."""
    checkpoint = load_checkpoint(str(folder))
    config = checkpoint.config
    assert config is not None
    out: TensorMap = {}
    for name, tensor in checkpoint.tensors.items():
        array = tensor.numpy()
        if config.architecture in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
            array = in_llama_order(array, config.num_heads if "q_proj" in name else config.num_kv_heads)
        out[gguf_name(name)] = (array, None)
    return out, config


def write_gguf(
    path: Path, config: Any, tensors: TensorMap, vocabulary: dict[str, Any], arch: str | None = None, **extra: Any
) -> Path:
    """A GGUF file; `extra` are further integer keys below the architecture, a string or None replaces or drops."""
    arch = arch or ("llama" if config.architecture == "mistral" else config.architecture)
    writer = gguf.GGUFWriter(path, arch)
    values = {
        "block_count": config.num_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
    } | extra
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(f"{arch}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{arch}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{arch}.{key}", value)
    for key, value in vocabulary.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def vocabulary(vocabulary_fields: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    return vocabulary_fields("gpt2", "qwen2")


@pytest.fixture
def tiny_gguf(tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]) -> Path:
    tensors, config = tensors_of(tiny_folder("llama"))
    return write_gguf(tmp_path / "tiny.gguf", config, tensors, vocabulary)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_file_gives_the_tensors_and_shape_it_was_made_from(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any], architecture: str, tied: bool
) -> None:
    extra = {"attention.sliding_window": 64} if architecture == "mistral" else {}
    window = {"sliding_window": 64} if architecture == "mistral" else {}
    folder = tiny_folder(architecture, tie_word_embeddings=tied, **window)
    tensors, config = tensors_of(folder)
    path = write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary, **extra)
    checkpoint = load_checkpoint(str(path), cache_dir=tmp_path / "cache")
    assert checkpoint.config == config
    original = load_checkpoint(str(folder)).tensors
    assert set(checkpoint.tensors) == set(original)
    assert all(torch.equal(checkpoint.tensors[name], original[name]) for name in original)
    assert checkpoint.tokenizer.encode("What is 12?") == load_checkpoint(str(folder)).tokenizer.encode("What is 12?")


def test_transformers_own_reader_gives_the_same_tensors(tiny_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    checkpoint = load_checkpoint(str(tiny_gguf), cache_dir=tmp_path / "cache")
    frame = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    theirs = load_gguf_checkpoint(str(tiny_gguf), return_tensors=True, model_to_load=frame)["tensors"]
    assert set(checkpoint.tensors) <= set(theirs)
    assert all(torch.equal(tensor, torch.as_tensor(theirs[name])) for name, tensor in checkpoint.tensors.items())


# --- every tensor type, by the formula of its blocks, element by element ----------------------------------------------


def half(rng: np.random.Generator) -> tuple[bytes, float]:
    value = np.float16(rng.uniform(0.01, 0.2))
    return value.tobytes(), float(value)


def reference_legacy(kind: str, rng: np.random.Generator) -> tuple[bytes, list[float]]:
    """One block of 32: scale, perhaps minimum, perhaps fifth bits, then quants."""
    scale, d = half(rng)
    if kind == "Q8_0":
        quants = rng.integers(-127, 128, 32)
        return scale + quants.astype(np.int8).tobytes(), [d * int(q) for q in quants]
    minimum, m = half(rng) if kind.endswith("_1") else (b"", 0.0)
    five = kind.startswith("Q5")
    offset = 0 if kind.endswith("_1") else (16 if five else 8)
    quants = [int(q) for q in rng.integers(0, 32 if five else 16, 32)]
    low = bytes((quants[j] & 15) | ((quants[j + 16] & 15) << 4) for j in range(16))
    fifth = struct.pack("<I", sum(((q >> 4) & 1) << j for j, q in enumerate(quants))) if five else b""
    return scale + minimum + fifth + low, [d * (q - offset) + m for q in quants]


def packed_scales(scales: list[int], minima: list[int]) -> bytes:
    """Eight pairs of 6-bit numbers in 12 bytes, as K-quants have them."""
    out = [0] * 12
    for j in range(4):
        out[j] = scales[j] | ((scales[j + 4] >> 4) << 6)
        out[j + 4] = minima[j] | ((minima[j + 4] >> 4) << 6)
        out[j + 8] = (scales[j + 4] & 15) | ((minima[j + 4] & 15) << 4)
    return bytes(out)


def reference_k4_k5(kind: str, rng: np.random.Generator) -> tuple[bytes, list[float]]:
    """One block of 256: eight runs of 32, each with a 6-bit scale and minimum."""
    (scale, d), (minimum, m) = half(rng), half(rng)
    scales, minima = ([int(x) for x in rng.integers(0, 64, 8)] for _ in range(2))
    quants = [[int(q) for q in rng.integers(0, 32 if kind == "Q5_K" else 16, 32)] for _ in range(8)]
    low = bytes((quants[2 * p][j] & 15) | ((quants[2 * p + 1][j] & 15) << 4) for p in range(4) for j in range(32))
    fifth = bytes(sum(((quants[run][j] >> 4) & 1) << run for run in range(8)) for j in range(32))
    head = scale + minimum + packed_scales(scales, minima)
    values = [d * scales[run] * q - m * minima[run] for run in range(8) for q in quants[run]]
    return head + (fifth if kind == "Q5_K" else b"") + low, values


def reference_k6(rng: np.random.Generator) -> tuple[bytes, list[float]]:
    """One block of 256: two halves of four runs of 32; 4 low bits, 2 high bits, an 8-bit scale for every 16."""
    quants = rng.integers(0, 64, (2, 4, 32))
    scales = rng.integers(-60, 61, (2, 4, 2))
    low, high, values = bytearray(), bytearray(), []
    scale, d = half(rng)
    for part in range(2):
        q = [[int(x) for x in run] for run in quants[part]]
        low += bytes((q[0][j] & 15) | ((q[2][j] & 15) << 4) for j in range(32))
        low += bytes((q[1][j] & 15) | ((q[3][j] & 15) << 4) for j in range(32))
        high += bytes(sum((q[run][j] >> 4) << (2 * run) for run in range(4)) for j in range(32))
        values += [d * int(scales[part, run, j // 16]) * (q[run][j] - 32) for run in range(4) for j in range(32)]
    return bytes(low) + bytes(high) + scales.astype(np.int8).tobytes() + scale, values


def reference_block(kind: str, rng: np.random.Generator) -> tuple[bytes, list[float]]:
    if kind == "Q6_K":
        return reference_k6(rng)
    return reference_k4_k5(kind, rng) if kind.endswith("_K") else reference_legacy(kind, rng)


def typed_tensor(kind: str, shape: tuple[int, int]) -> tuple[tuple[Array, Q | None], torch.Tensor]:
    """A tensor of a type as a writer takes it, and the values it stands for."""
    rng = np.random.default_rng(list(kind.encode()))
    if kind in ("F32", "F16", "BF16"):
        own = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        values = torch.tensor(rng.normal(size=shape), dtype=own)
        raw = values.view(torch.int16).numpy().view(np.uint8) if kind == "BF16" else values.numpy()
        return (raw, Q.BF16 if kind == "BF16" else None), values
    size = 256 if kind.endswith("_K") else 32
    blocks = [reference_block(kind, rng) for _ in range(shape[0] * shape[1] // size)]
    raw = np.frombuffer(b"".join(data for data, _ in blocks), np.uint8).reshape(shape[0], -1)
    flat = [value for _, values in blocks for value in values]
    return (raw, Q[kind]), torch.tensor(flat, dtype=torch.float64).reshape(shape).to(torch.float32)


@pytest.mark.parametrize("kind", SUPPORTED_TYPES)
def test_each_tensor_type_gives_the_values_of_its_formula(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any], kind: str
) -> None:
    tensors, config = tensors_of(tiny_folder("llama", intermediate_size=512))
    tensors["blk.1.ffn_down.weight"], expected = typed_tensor(kind, (32, 512))
    model = GgufModel(write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary))
    found = model["model.layers.1.mlp.down_proj.weight"]
    assert found.dtype == expected.dtype
    exact = kind in ("F32", "F16", "BF16")
    torch.testing.assert_close(found, expected, rtol=0 if exact else 1e-6, atol=0 if exact else 1e-6)
    assert found.float().abs().max() > 0.1


def test_quantised_query_rows_are_reordered_after_dequantisation(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    tensors, config = tensors_of(tiny_folder("llama"))
    tensors["blk.0.attn_q.weight"], stored = typed_tensor("Q8_0", (32, 32))
    model = GgufModel(write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary))
    found = model["model.layers.0.self_attn.q_proj.weight"].numpy()
    np.testing.assert_allclose(in_llama_order(found, config.num_heads), stored.numpy(), rtol=1e-6)


# --- rotary factors ------------------------------------------------------------------------


def write_with_factors(folder: Path, path: Path, vocabulary: dict[str, Any], factors: Array) -> Path:
    tensors, config = tensors_of(folder)
    return write_gguf(path, config, tensors | {"rope_freqs.weight": (factors.astype(np.float32), None)}, vocabulary)


def test_llama3_scaling_is_derived_from_its_factors(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    scaling = Llama3RopeScaling(32.0, 1.0, 4.0, 8192)
    folder = tiny_folder("llama", head_dim=64, rope_theta=5e5)
    factors = llama3_divisors(scaling, 5e5, 64)
    assert len(set(np.round(factors, 6))) > 3  # kept, divided and blended frequencies all occur
    path = write_with_factors(folder, tmp_path / "m.gguf", vocabulary, factors)
    config = GgufModel(path).config
    assert config.rope_scaling == scaling
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from rethink.model.decoder.hf_config import to_hf_config

    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**to_hf_config(config)), torch.device("cpu"))
    plain = 5e5 ** -(np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(theirs.numpy(), plain / factors, rtol=1e-5)


def test_factors_of_one_scale_nothing_and_other_factors_are_refused(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    folder = tiny_folder("llama")
    plain = write_with_factors(folder, tmp_path / "plain.gguf", vocabulary, np.ones(4))
    assert GgufModel(plain).config.rope_scaling is None
    for factors in (np.array([1, 2, 3, 4]), np.ones(3)):
        other = write_with_factors(folder, tmp_path / "other.gguf", vocabulary, factors)
        with pytest.raises(ModelError, match="not those of llama3"):
            GgufModel(other)


# --- files that cannot be used ------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_an_error_of_one_paragraph(tiny_gguf: Path, tmp_path: Path) -> None:
    whole = tiny_gguf.read_bytes()
    for size in [0, 3, 4, 10, 24, 100, 1000, len(whole) // 2, len(whole) - 4000]:
        cut = tmp_path / f"cut-{size}.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"GGUF|header|damaged") as caught:
            load_checkpoint(str(cut), cache_dir=tmp_path / "cache")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("cut*"))


def test_something_else_under_the_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"<!doctype html>")
    with pytest.raises(ModelError, match="no GGUF file"):
        load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("arch", "extra", "named"),
    [
        ("gemma3", {}, "gemma3"),
        ("llama", {"expert_count": 8}, "8 experts"),
        ("llama", {"rope.scaling.type": "yarn"}, "yarn"),
        ("llama", {"rope.dimension_count": 4}, "4 of 8"),
        ("llama", {"block_count": None}, "llama.block_count"),
        ("llama", {"block_count": 3}, "no tensor for 'model.layers.2"),
        ("llama", {"feed_forward_length": 40}, r"\[48, 32\] where \[40, 32\]"),
        ("llama", {"context_length": "long"}, "'long' for the key"),
        ("qwen2", {}, "no tensor for 'model.layers.0.self_attn.q_proj.bias'"),
    ],
)
def test_what_cannot_be_computed_is_named(
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    vocabulary: dict[str, Any],
    arch: str,
    extra: dict[str, Any],
    named: str,
) -> None:
    tensors, config = tensors_of(tiny_folder("llama"))
    path = write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary, arch=arch, **extra)
    with pytest.raises(ModelError, match=named):
        load_checkpoint(str(path), cache_dir=tmp_path / "cache")


def test_unsupported_and_unknown_tensor_types_are_named(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    tensors, config = tensors_of(tiny_folder("llama", intermediate_size=256))
    tensors["blk.0.ffn_down.weight"] = (np.zeros((32, 84), np.uint8), Q.Q2_K)
    path = write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary)
    with pytest.raises(ModelError, match=r"Q2_K.*readable are F32"):
        load_checkpoint(str(path), cache_dir=tmp_path / "cache")
    header = b"blk.0.ffn_down.weight" + struct.pack("<IQQI", 2, 256, 32, int(Q.Q2_K))
    data = path.read_bytes()
    assert data.count(header) == 1
    path.write_bytes(data.replace(header, header[:-4] + struct.pack("<I", 250)))
    with pytest.raises(ModelError, match=r"250.*known tensor types are F32"):
        load_checkpoint(str(path), cache_dir=tmp_path / "cache")


def test_tensors_that_do_not_belong_and_values_that_are_not_finite(
    tiny_folder: Callable[..., Path], tmp_path: Path, vocabulary: dict[str, Any]
) -> None:
    tensors, config = tensors_of(tiny_folder("llama"))
    for name, said in (("blk.0.ffn_norm_2.weight", "ffn_norm_2"), ("blk.0.attn_q.bias", "q_proj.bias")):
        odd = tensors | {name: (np.zeros(32, np.float32), None)}
        with pytest.raises(ModelError, match=said):
            GgufModel(write_gguf(tmp_path / "odd.gguf", config, odd, vocabulary))
    spoiled = tensors | {"output_norm.weight": (np.full(32, np.nan, np.float32), None)}
    path = write_gguf(tmp_path / "nan.gguf", config, spoiled, vocabulary)
    with pytest.raises(ModelError, match="not finite"):
        load_checkpoint(str(path), cache_dir=tmp_path / "cache")


# --- the cache ------------------------------------------------------------------------


def test_conversion_happens_once_and_again_when_the_file_changes(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETHINK_CACHE", str(tmp_path / "cache"))
    first = load_checkpoint(str(tiny_gguf)).folder
    assert first.parent == tmp_path / "cache"
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert load_checkpoint(str(tiny_gguf)).folder == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    os.utime(tiny_gguf, ns=(1, 1))
    assert load_checkpoint(str(tiny_gguf)).folder != first


def test_failed_conversion_leaves_no_entry_and_the_next_one_works(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(StorageFailure, match="RETHINK_CACHE"):
            load_checkpoint(str(tiny_gguf), cache_dir=cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    load_checkpoint(str(tiny_gguf), cache_dir=cache)


def test_too_little_space_is_said_before_the_work(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rethink.store.cache.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageFailure, match="RETHINK_CACHE"):
        load_checkpoint(str(tiny_gguf), cache_dir=tmp_path / "cache")
