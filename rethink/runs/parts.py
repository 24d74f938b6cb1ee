"""The optimizer's state in files: one a trainer rank, each with the tensors that the rank owns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_parts(folder: Path, states: Iterable[Mapping[str, Tensor]], size: int) -> None:
    """Write the state of each of so many ranks, in order."""
    for number, state in enumerate(states, 1):
        name = "optimizer" if size == 1 else f"optimizer-{number:05d}-of-{size:05d}"
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / f"{name}.safetensors")


class Parts(Mapping[str, Tensor]):
    """The optimizer's tensors in a checkpoint, however many files they lie in; each is read when it is asked for."""

    def __init__(self, folder: Path):
        self._files: dict[str, Path] = {}
        paths = sorted(folder.glob("optimizer*.safetensors")) or [folder / "optimizer.safetensors"]
        for path in paths:
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)
        whole = re.fullmatch(r"optimizer-\d+-of-(\d+)", paths[0].stem)
        if whole is not None and len(paths) != int(whole[1]):
            raise ValueError(f"the optimizer's state is {whole[1]} files, of which {len(paths)} are there")

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
