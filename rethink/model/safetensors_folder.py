"""The tensors of a Hugging Face folder, read when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.errors import ModelError
from rethink.model.files import read_json_object

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_COMPUTED_ANYWAY = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Tensors of old files that follow from config.json."""
_ROWS = 4096
"""Rows of a matrix that are compared at once."""


class FolderTensors(Mapping[str, "Tensor"]):
    """Name to tensor over one or several safetensors files; each look-up reads that tensor alone.

    Raises:
        ModelError: no safetensors files, a missing shard, or a file that is cut short.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file, names in _files_with_names(folder):
            handle = self._handle(file)
            inside = set(handle.keys())
            missing = sorted((names if names is not None else inside) - inside)
            if missing:
                raise ModelError(
                    f"{file} lacks the tensor {missing[0]!r} that {INDEX} says it holds; download the model again"
                )
            self._files.update(dict.fromkeys(names if names is not None else inside, file))

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[name]
        tensor: Tensor = self._handle(file).get_tensor(name)
        check_finite(tensor, name, str(file))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def close(self) -> None:
        """Unmap the files, whose pages would stay in memory; a later look-up maps them again."""
        self._open.clear()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        return tuple(self._handle(self._files[name]).get_slice(name).get_shape())

    def settle_head(self, tied: bool) -> bool:
        """Whether the head is the embedding: where the configuration says so, and the file has no other.

        As `transformers` 5 does: a head in the file that differs from the embedding is used, whatever the
        configuration says; one that is equal is left out here.
        """
        if not tied or HEAD not in self._files or EMBEDDING not in self._files:
            return tied
        ours, theirs = (self._handle(self._files[name]).get_slice(name) for name in (EMBEDDING, HEAD))
        if self.shape(EMBEDDING) != self.shape(HEAD) or not all(
            (ours[i : i + _ROWS] == theirs[i : i + _ROWS]).all() for i in range(0, self.shape(HEAD)[0], _ROWS)
        ):
            return False
        del self._files[HEAD]
        return True

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names, shapes and types with what the decoder needs, without reading weights.

        Raises:
            ModelError: naming the first tensor that is missing, misshaped, not of a float type, or not computed.
        """
        extra = min((n for n in self._files if n not in shapes and not _COMPUTED_ANYWAY.fullmatch(n)), default=None)
        if extra is not None and all(name in self._files for name in shapes):
            raise ModelError(
                f"{self.folder} holds the tensor {extra!r}, which its config.json does not call for, so the model "
                "would be computed without it; config.json and weights belong to different models: download both again"
            )
        for name, shape in shapes.items():
            if name not in self._files:
                raise ModelError(
                    f"{self.folder} has no tensor {name!r}, which its config.json calls for; "
                    "the folder is incomplete or its config.json belongs to another model: download it again"
                )
            if self.shape(name) != shape:
                raise ModelError(
                    f"tensor {name!r} in {self.folder} has shape {list(self.shape(name))} where config.json calls for "
                    f"{list(shape)}; config.json and weights belong to different models: download both again"
                )
            kind = self._handle(self._files[name]).get_slice(name).get_dtype()
            if kind not in _FLOAT_TYPES:
                raise ModelError(
                    f"tensor {name!r} in {self.folder} is stored as {kind}, which cannot be trained; allowed are "
                    f"{', '.join(_FLOAT_TYPES)}. Give the unquantised model, or a GGUF file"
                )

    def _handle(self, file: Path) -> Any:
        if file not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError, ValueError) as error:
                raise ModelError(
                    f"{file} is not a whole safetensors file ({error}); a download was probably cut short: "
                    "delete it and download the model again"
                ) from error
        return self._open[file]


def check_finite(tensor: Tensor, name: str, source: str) -> None:
    """Refuse a tensor with nan or inf in it.

    Raises:
        ModelError: naming the tensor and where it is from.
    """
    # torch cannot ask types of one byte
    if not bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all()):
        raise ModelError(
            f"tensor {name!r} of {source} holds values that are not finite (nan or inf), so the model is broken; "
            "download it again, or use another"
        )


def _files_with_names(folder: Path) -> list[tuple[Path, set[str] | None]]:
    """The weight files, with the tensor names that the index gives each (None: all that the file holds)."""
    if (folder / INDEX).is_file():
        return [(folder / name, names) for name, names in _read_index(folder).items()]
    if (folder / SINGLE).is_file():
        return [(folder / SINGLE, None)]
    raise ModelError(_explain_no_weights(folder))


def _read_index(folder: Path) -> dict[str, set[str]]:
    path = folder / INDEX
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{path} is not a readable index of shards: it has no `weight_map`; download the model again")
    by_file: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        by_file.setdefault(file, set()).add(tensor)
    outside = [name for name in by_file if Path(name).name != name]
    if outside or not by_file:
        raise ModelError(
            f"{path} names {outside[0]!r} as a shard, outside its folder; use a copy from a source you trust"
            if outside
            else f"{path} lists no tensors; download the model again"
        )
    missing = sorted(name for name in by_file if not (folder / name).is_file())
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of its {len(by_file)} shards, first {missing[0]}; "
            "the download was cut short: download the model again"
        )
    return by_file


def _explain_no_weights(folder: Path) -> str:
    """Why there are no usable weights here, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    adapters = [name for name in names if name.startswith("adapter_")]
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl"))]
    ggufs = [name for name in names if name.endswith(".gguf")]
    if adapters:
        return (
            f"{folder} holds a LoRA adapter ({adapters[0]}), not a model; merge it into its base model with "
            "peft (`merge_and_unload`, then `save_pretrained`) and give that folder"
        )
    if pickles:
        return (
            f"{folder} holds its weights as pickle ({pickles[0]}), which can run code when read and is therefore "
            "refused; convert it once where you trust the source: "
            "`AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)` writes safetensors"
        )
    if ggufs:
        return f"{folder} holds GGUF files and no safetensors; give the file itself: {folder / ggufs[0]}"
    return (
        f"{folder} holds no weights: neither {SINGLE} nor {INDEX} is there; "
        "give a folder that `save_pretrained` wrote, a GGUF file, or a hub id"
    )
