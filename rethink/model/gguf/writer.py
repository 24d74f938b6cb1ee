"""Writing a decoder as one GGUF file, with the names, keys and row orders that llama.cpp reads.

Matrices are stored in the type asked for, vectors (norms, biases, rotary factors) in float32, as llama.cpp's converter
does. One tensor is held in memory at a time.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rethink.errors import ModelError
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.hf_config import expected_shapes
from rethink.model.gguf.shape import llama3_divisors
from rethink.model.gguf.tensors import PERMUTED, ROPE_FACTORS, gguf_name

if TYPE_CHECKING:
    from torch import Tensor

GgufType = Literal["f16", "bf16", "q8_0"]
OnTensor = Callable[[int, int], None]
"""(bytes written, bytes in all), after each tensor."""
BLOCK = 32
"""Values of a Q8_0 block, which share a scale; a row must be cut into whole ones."""
_LARGEST_F16 = 65504.0
_EXPORTED_NAME = {"mistral": "llama"}
"""llama.cpp has one architecture for both."""
_FILE_TYPES = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


@dataclass(frozen=True, slots=True)
class WrittenGguf:
    """Result of the writing."""

    nbytes: int
    tensors: int
    rounded: int
    """Tensors with values that the type could not hold exactly."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor of the file."""

    name: str
    source: str | None
    """Hugging Face name; None: the rotary factors."""
    shape: tuple[int, ...]
    kind: str
    """F32, F16, BF16 or Q8_0."""

    @property
    def nbytes(self) -> int:
        values = int(np.prod(self.shape))
        return values * 4 if self.kind == "F32" else values // BLOCK * 34 if self.kind == "Q8_0" else values * 2

    @property
    def row_bytes(self) -> int:
        return self.nbytes // int(np.prod(self.shape[:-1]))


def write_gguf(
    path: Path,
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    vocabulary: Mapping[str, Any],
    general: Mapping[str, Any],
    dtype: GgufType,
    on_tensor: OnTensor | None = None,
) -> WrittenGguf:
    """Write the file; `path` is overwritten and not forced to disk (see `store.atomic.replacing`).

    Args:
        path: where to.
        config: the decoder's shape.
        tensors: Hugging Face names to tensors, each asked for once.
        vocabulary: `tokenizer.*` keys.
        general: further `general.*` keys (name, licence, …), strings, numbers or lists of strings.
        dtype: type of the matrices.
        on_tensor: told after each tensor.

    Raises:
        ModelError: a value that is not finite, or too large for F16.
        OSError: the disk refuses.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    planned, notes = _plan(config, dtype)
    writer = GGUFWriter(path, _EXPORTED_NAME.get(config.architecture, config.architecture))
    try:
        for key, value in {**general, **_shape_keys(config), **_file_keys(dtype), **vocabulary}.items():
            _add(writer, key, value)
        for tensor in planned:
            stored = tensor.shape if tensor.kind == "F32" else (*tensor.shape[:-1], tensor.row_bytes)
            as_bytes = np.dtype(np.float32 if tensor.kind == "F32" else np.uint8)
            writer.add_tensor_info(
                tensor.name, stored, as_bytes, tensor.nbytes, raw_dtype=GGMLQuantizationType[tensor.kind]
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        rounded = _write_tensors(writer, planned, config, tensors, on_tensor)
    finally:
        writer.close()
    return WrittenGguf(path.stat().st_size, len(planned), rounded, notes)


def planned_bytes(config: DecoderConfig, dtype: GgufType) -> int:
    """Bytes of the tensors of a file; its header comes to some megabytes more."""
    return sum(tensor.nbytes for tensor in _plan(config, dtype)[0])


def _plan(config: DecoderConfig, dtype: GgufType) -> tuple[list[_Planned], tuple[str, ...]]:
    planned, uneven = [], []
    for name, shape in expected_shapes(config).items():
        kind = "F32" if len(shape) == 1 else dtype.upper()
        if kind == "Q8_0" and shape[-1] % BLOCK:
            kind = "F16"
            uneven.append(name)
        planned.append(_Planned(gguf_name(name), name, shape, kind))
    if config.rope_scaling is not None:
        planned.append(_Planned(ROPE_FACTORS, None, (config.head_dim // 2,), "F32"))
    notes = []
    if uneven:
        notes.append(f"{len(uneven)} matrices have rows that are no multiple of {BLOCK}; they are stored as F16")
    if config.sliding_window is not None:
        notes.append(
            f"the model attends to {config.sliding_window} tokens at most; llama.cpp does not limit that for this "
            "architecture, so keep its context (-c) within it"
        )
    if config.architecture == "qwen2" and config.num_heads * config.head_dim != config.hidden_size:
        notes.append(
            f"{config.num_heads} heads of {config.head_dim} do not make the hidden size {config.hidden_size}, which "
            "llama.cpp expects of qwen2: it will refuse the file"
        )
    return planned, tuple(notes)


def _write_tensors(
    writer: Any,
    planned: Sequence[_Planned],
    config: DecoderConfig,
    tensors: Mapping[str, Tensor],
    on_tensor: OnTensor | None,
) -> int:
    total, done, rounded = sum(tensor.nbytes for tensor in planned), 0, 0
    for tensor, (data, exact) in zip(planned, _encoded(planned, config, tensors), strict=True):
        try:
            writer.write_tensor_data(data)
        except OSError as error:
            if error.errno is None:  # numpy's writer loses the reason of a short write
                raise OSError(errno.ENOSPC, "the disk took only a part") from error
            raise
        done += tensor.nbytes
        rounded += not exact
        if on_tensor is not None:
            on_tensor(done, total)
    return rounded


def _encoded(
    planned: Sequence[_Planned], config: DecoderConfig, tensors: Mapping[str, Tensor]
) -> Iterator[tuple[NDArray[Any], bool]]:
    """Each tensor's data, and whether it says exactly what the model says."""
    for tensor in planned:
        if tensor.source is None:
            assert config.rope_scaling is not None
            yield llama3_divisors(config.rope_scaling, config.rope_theta, config.head_dim).astype(np.float32), True
        else:
            value = tensors[tensor.source].detach().to("cpu")
            yield _encode(in_file_order(tensor.source, value, config), tensor.kind, tensor.source)


def in_file_order(name: str, tensor: Tensor, config: DecoderConfig) -> Tensor:
    """Rows [H·2·(D/2)] of query and key projections as [H·(D/2)·2], for the architectures that are stored so."""
    heads = {"q_proj.weight": config.num_heads, "k_proj.weight": config.num_kv_heads}
    for suffix, count in heads.items():
        if config.architecture in PERMUTED and name.endswith(suffix):
            halves = tensor.reshape(count, 2, config.head_dim // 2, -1)
            return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    return tensor.contiguous()


def _encode(tensor: Tensor, kind: str, name: str) -> tuple[NDArray[Any], bool]:
    import torch

    wide = tensor.float()
    largest = float(wide.abs().max()) if wide.numel() else 0.0
    if not np.isfinite(largest):
        raise ModelError(f"tensor {name!r} holds values that are not finite, so the model is broken; export another")
    if kind == "F32":
        return wide.numpy(), tensor.dtype != torch.float64 or torch.equal(wide.double(), tensor)
    if kind == "Q8_0":
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        return np.ascontiguousarray(quantize(wide.numpy(), GGMLQuantizationType.Q8_0)), False
    if kind == "F16" and largest > _LARGEST_F16:
        raise ModelError(
            f"tensor {name!r} holds the value {largest:.3g}, and F16 ends at {_LARGEST_F16:g}; use --dtype bf16"
        )
    narrow = tensor.to(torch.float16 if kind == "F16" else torch.bfloat16)
    data = narrow.view(torch.int16).numpy().view(np.uint8)
    return data, torch.equal(narrow.float(), wide)


# --- keys ------------------------------------------------------------------------------------------------------------


def _shape_keys(config: DecoderConfig) -> dict[str, Any]:
    values: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_theta,
    }
    if config.sliding_window is not None:
        values["attention.sliding_window"] = config.sliding_window
    if config.rope_scaling is not None:
        values["rope.scaling.original_context_length"] = config.rope_scaling.original_max_position_embeddings
    prefix = _EXPORTED_NAME.get(config.architecture, config.architecture)
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _file_keys(dtype: GgufType) -> dict[str, Any]:
    from gguf import GGML_QUANT_VERSION, LlamaFileType

    return {
        "general.type": "model",
        "general.file_type": int(LlamaFileType[_FILE_TYPES[dtype]]),
        "general.quantization_version": int(GGML_QUANT_VERSION),
    }


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
