"""GGUF files: read by the `gguf` package, dequantised to tensors under Hugging Face names.

Llama-architecture files hold the rows of the query and key projections in another order (rotary pairs side by side
instead of half a head apart); that order is undone here. Qwen2 and Qwen3 files are stored as Hugging Face has them.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rethink.errors import ModelError
from rethink.model.config import DecoderConfig
from rethink.model.gguf_config import config_from_gguf
from rethink.model.hf_config import expected_shapes

if TYPE_CHECKING:
    from torch import Tensor

SUPPORTED_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
_TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_TOP_LEVEL = {theirs.removesuffix(".weight"): ours for ours, theirs in _TOP_LEVEL.items()}
_GGUF_IN_LAYER = {theirs: ours for ours, theirs in _IN_LAYER.items()}
_LAYER_NAME = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")
ROPE_FACTORS = "rope_freqs.weight"
PERMUTED = ("llama", "mistral")
"""Architectures whose query and key rows are in another order in a file."""


class GgufModel(Mapping[str, "Tensor"]):
    """A GGUF file as tensors under Hugging Face names, each dequantised when it is asked for.

    Quantised and F32 tensors come as float32 (exact), F16 and BF16 ones as they are.

    Raises:
        ModelError: no GGUF file, cut short, of an architecture or with a tensor type that is not read here.
    """

    def __init__(self, path: Path):
        self.path = path
        reader = _open(path)
        self._map: mmap.mmap = reader.data._mmap
        self.fields: dict[str, Any] = _fields(reader, path)
        stored = {tensor.name: tensor for tensor in reader.tensors}
        _check_types(stored.values(), path)
        factors = _dequantise(stored.pop(ROPE_FACTORS), path) if ROPE_FACTORS in stored else None
        embedding = stored.get("token_embd.weight")
        if embedding is None:
            raise ModelError(f"{path} holds no token embedding, so it is no language model; give another file")
        self.config: DecoderConfig = config_from_gguf(
            self.fields, str(path), int(embedding.shape[1]), "output.weight" not in stored, factors
        )
        self._stored = {_hugging_face_name(name, path): tensor for name, tensor in stored.items()}
        self._check_shapes()

    def __getitem__(self, name: str) -> Tensor:
        import torch

        stored = self._stored[name]
        kind = stored.tensor_type.name
        if kind == "BF16":
            words = np.array(stored.data).view(np.int16).reshape(_shape(stored))
            tensor = torch.from_numpy(words).view(torch.bfloat16)
        elif kind == "F16":
            tensor = torch.from_numpy(np.array(stored.data).reshape(_shape(stored)))
        else:
            tensor = torch.from_numpy(_dequantise(stored, self.path))
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"tensor {stored.name!r} of {self.path} holds values that are not finite; {_AGAIN}")
        return self._undo_permutation(name, tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def close(self) -> None:
        """Let go of the file's pages, which would stay in memory; a later look-up reads them again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def nbytes(self) -> int:
        """Bytes of all tensors once dequantised."""
        width = {"F16": 2, "BF16": 2}
        return sum(int(np.prod(_shape(t))) * width.get(t.tensor_type.name, 4) for t in self._stored.values())

    def _check_shapes(self) -> None:
        expected = expected_shapes(self.config)
        for name, shape in expected.items():
            if name not in self._stored:
                raise ModelError(f"{self.path} has no tensor for {name!r}; {_AGAIN}")
            if _shape(self._stored[name]) != shape:
                found = list(_shape(self._stored[name]))
                raise ModelError(f"{self.path} has {name!r} as {found} where {list(shape)} belongs; {_AGAIN}")
        extra = sorted(set(self._stored) - set(expected))
        if extra:
            raise ModelError(
                f"{self.path} holds {extra[0]!r}, which a {self.config.architecture} model of this family does not "
                "have, so it would be computed wrongly; use the model's Hugging Face folder or hub id"
            )

    def _undo_permutation(self, name: str, tensor: Tensor) -> Tensor:
        """Rows [H·(D/2)·2] in the file's order back to [H·2·(D/2)]."""
        if self.config.architecture not in PERMUTED:
            return tensor
        heads = {"q_proj.weight": self.config.num_heads, "k_proj.weight": self.config.num_kv_heads}
        for suffix, count in heads.items():
            if name.endswith(suffix):
                pairs = tensor.reshape(count, self.config.head_dim // 2, 2, -1)
                return pairs.transpose(1, 2).reshape(tensor.shape).contiguous()
        return tensor


_AGAIN = "the file is damaged or incomplete: download it again"


def _open(path: Path) -> Any:
    """The file's reader; whatever goes wrong inside means that the file is not whole."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if magic != b"GGUF":
        raise ModelError(
            f"{path} is no GGUF file: it begins with {magic!r} where b'GGUF' belongs; the download may have fetched "
            "a web page or a git-lfs pointer instead. Download it again"
        )
    from gguf import GGUFReader

    try:
        return GGUFReader(path, "r")
    except Exception as error:  # a damaged header can break the reader in any way
        raise ModelError(
            f"{path} is not a whole GGUF file, or of a type that is not known "
            f"({type(error).__name__}: {str(error)[:200]}); known tensor types are {', '.join(SUPPORTED_TYPES)}. "
            "If the download was cut short, download it again"
        ) from error


def _fields(reader: Any, path: Path) -> dict[str, Any]:
    try:
        return {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:
        raise ModelError(f"the header of {path} cannot be read ({type(error).__name__}: {error}); {_AGAIN}") from error


def _check_types(tensors: Any, path: Path) -> None:
    for tensor in tensors:
        if tensor.tensor_type.name not in SUPPORTED_TYPES:
            raise ModelError(
                f"tensor {tensor.name!r} of {path} has type {tensor.tensor_type.name}, which is not read here; "
                f"readable are {', '.join(SUPPORTED_TYPES)}. Use another quantisation of the model, e.g. Q8_0 or Q4_K_M"
            )


def _shape(tensor: Any) -> tuple[int, ...]:
    """Row-major shape; GGUF writes the fastest axis first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def _dequantise(tensor: Any, path: Path) -> NDArray[np.float32]:
    from gguf.quants import dequantize

    try:
        values = np.asarray(dequantize(np.array(tensor.data), tensor.tensor_type), dtype=np.float32)
        return np.array(values.reshape(_shape(tensor)))
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"tensor {tensor.name!r} of {path} cannot be dequantised ({error}); {_AGAIN}") from error


def _hugging_face_name(name: str, path: Path) -> str:
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    match = _LAYER_NAME.fullmatch(name)
    if match is None or match[2] not in _IN_LAYER:
        raise ModelError(
            f"{path} holds the tensor {name!r}, which models of the llama, qwen2, qwen3 and mistral family do not "
            "have, so it would be computed wrongly; use the model's Hugging Face folder or hub id"
        )
    return f"model.layers.{int(match[1])}.{_IN_LAYER[match[2]]}.{match[3]}"


def gguf_name(name: str) -> str:
    """What a GGUF file calls a tensor of this family; the inverse of how its names are read."""
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return _GGUF_TOP_LEVEL[stem]
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{_GGUF_IN_LAYER[inner]}.{kind}"
