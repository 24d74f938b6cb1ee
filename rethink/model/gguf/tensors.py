"""GGUF files as tensors under Hugging Face names, dequantised by the `gguf` package.

Llama-architecture files hold the rows of the query and key projections in another order (rotary pairs side by side
instead of half a head apart); that order is undone here. Qwen2 and Qwen3 files are stored as Hugging Face has them.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rethink.errors import ModelError
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.hf_config import expected_shapes
from rethink.model.gguf.header import AGAIN, StoredTensor, read_header
from rethink.model.gguf.shape import config_from_gguf
from rethink.model.safetensors_folder import check_finite

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
        header = read_header(path, SUPPORTED_TYPES)
        self._map: mmap.mmap = header.data
        self.fields: Mapping[str, Any] = header.fields
        stored = dict(header.tensors)
        _check_types(stored.values(), path)
        factors = self._dequantise(stored.pop(ROPE_FACTORS)) if ROPE_FACTORS in stored else None
        embedding = stored.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError(f"{path} holds no token embedding, so it is no language model; give another file")
        self.config: DecoderConfig = config_from_gguf(
            self.fields, str(path), embedding.shape[0], "output.weight" not in stored, factors
        )
        self._stored = {_hugging_face_name(name, path): tensor for name, tensor in stored.items()}
        self._check_shapes()

    def __getitem__(self, name: str) -> Tensor:
        import torch

        stored = self._stored[name]
        if stored.kind in ("BF16", "F16"):
            dtype = torch.bfloat16 if stored.kind == "BF16" else torch.float16
            tensor = torch.from_numpy(self._bytes(stored).view(np.int16).reshape(stored.shape)).view(dtype)
        else:
            tensor = torch.from_numpy(self._dequantise(stored))
        check_finite(tensor, stored.name, str(self.path))
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
        return sum(math.prod(t.shape) * width.get(t.kind, 4) for t in self._stored.values())

    def _bytes(self, stored: StoredTensor) -> NDArray[np.uint8]:
        """A copy of what the file holds."""
        return np.frombuffer(self._map, np.uint8, stored.nbytes, stored.offset).copy()

    def _dequantise(self, stored: StoredTensor) -> NDArray[np.float32]:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = self._bytes(stored).reshape(math.prod(stored.shape[:-1]), -1)
        try:
            values = np.asarray(dequantize(rows, GGMLQuantizationType[stored.kind]), dtype=np.float32)
            return np.array(values.reshape(stored.shape))
        except (ValueError, NotImplementedError) as error:
            raise ModelError(
                f"tensor {stored.name!r} of {self.path} cannot be dequantised ({error}); {AGAIN}"
            ) from error

    def _check_shapes(self) -> None:
        expected = expected_shapes(self.config)
        for name, shape in expected.items():
            if name not in self._stored:
                raise ModelError(f"{self.path} has no tensor for {name!r}; {AGAIN}")
            if self._stored[name].shape != shape:
                found = list(self._stored[name].shape)
                raise ModelError(f"{self.path} has {name!r} as {found} where {list(shape)} belongs; {AGAIN}")
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


def _check_types(tensors: Iterable[StoredTensor], path: Path) -> None:
    for tensor in tensors:
        if tensor.kind not in SUPPORTED_TYPES:
            raise ModelError(
                f"tensor {tensor.name!r} of {path} has type {tensor.kind}, which is not read here; "
                f"readable are {', '.join(SUPPORTED_TYPES)}. Use another quantisation of the model, e.g. Q8_0 or Q4_K_M"
            )


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
