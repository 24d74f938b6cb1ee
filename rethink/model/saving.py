"""Saving a model as a Hugging Face folder that `transformers` and everything built on it can load."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.model.safetensors_folder import INDEX, SINGLE
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.store.atomic import TEMPORARY, storage_errors, sync_file, sync_folder, write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHARD_BYTES = 5 * 10**9
"""Most bytes in one weight file."""


def save_hf_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    hf_config: Mapping[str, Any],
    tokenizer: Tokenizer,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write weights, configuration and tokenizer; tensors are stored bit for bit in `dtype`.

    A tied head is left out, as `transformers` does. Each file is replaced atomically; at most one shard is held in
    memory, so `tensors` may be lazy.

    Args:
        folder: where to write; made if missing. Weight files of an earlier export that are not part of this one go.
        tensors: Hugging Face names to tensors.
        hf_config: content of `config.json`; its `dtype` is set to what is stored.
        tokenizer: written beside the weights.
        dtype: type to store; None keeps each tensor's own.
        shard_bytes: most bytes in one weight file.

    Raises:
        StorageFailure: the disk is full or the folder cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    tied = bool(hf_config.get("tie_word_embeddings"))
    names = [name for name in tensors if not (tied and name == "lm_head.weight")]
    stored_type = _write_weights(folder, tensors, names, dtype, shard_bytes)
    config = {key: value for key, value in hf_config.items() if key not in ("torch_dtype", "dtype")}
    # transformers 4 reads torch_dtype, transformers 5 dtype.
    config |= {"dtype": stored_type, "torch_dtype": stored_type}
    write_json(folder / "config.json", config)
    tokenizer.save(folder)


def _write_weights(
    folder: Path, tensors: Mapping[str, Tensor], names: list[str], dtype: torch.dtype | None, shard_bytes: int
) -> str:
    """Write all shards; returns the name of the widest type stored."""
    drafts: list[tuple[Path, list[str]]] = []
    total, widest, kind = 0, 0, "float32"
    try:
        for shard in _shards(tensors, names, dtype, shard_bytes):
            path = folder / f".model-{len(drafts) + 1:05d}{TEMPORARY}{os.getpid()}"
            drafts.append((path, list(shard)))
            _write_shard(path, shard)
            total += sum(tensor.nbytes for tensor in shard.values())
            for tensor in shard.values():
                if tensor.element_size() > widest:
                    widest, kind = tensor.element_size(), str(tensor.dtype).removeprefix("torch.")
        _put_in_place(folder, drafts, total)
    finally:
        for path, _ in drafts:
            path.unlink(missing_ok=True)
    return kind


def _shards(
    tensors: Mapping[str, Tensor], names: list[str], dtype: torch.dtype | None, shard_bytes: int
) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name in names:
        tensor = _plain(tensors[name], dtype)
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor on the CPU, contiguous and alone in its storage (a slice of a fused one is copied)."""
    plain = tensor.detach().to("cpu", dtype or tensor.dtype).contiguous()
    return plain.clone() if plain.untyped_storage().nbytes() != plain.nbytes else plain


def _write_shard(path: Path, shard: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with storage_errors(path):
        path.touch()
        mode = path.stat().st_mode
        save_file(shard, path, metadata={"format": "pt"})
        path.chmod(mode)  # safetensors makes files that only their owner can read
        sync_file(path)


def _put_in_place(folder: Path, drafts: list[tuple[Path, list[str]]], total: int) -> None:
    """Rename the drafts, write the index where there are several, then remove what an earlier export left."""
    count = len(drafts)
    final = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for name, (draft, _) in zip(final, drafts, strict=True):
        os.replace(draft, folder / name)
    sync_folder(folder)
    if count > 1:
        weight_map = {tensor: name for name, (_, held) in zip(final, drafts, strict=True) for tensor in held}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / INDEX, index)
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for path in folder.glob("model*.safetensors"):
        if path.name not in final:
            path.unlink()
