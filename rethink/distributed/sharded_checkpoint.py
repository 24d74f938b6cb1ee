"""Sharded state in files, by torch's distributed checkpoint (DCP) without its pickles.

    sharded-00001-of-00002.safetensors   what rank 0 holds of each tensor; its header says which part that is
    sharded-00002-of-00002.safetensors   what rank 1 holds

DCP plans which parts of which files a rank reads, whatever the number of ranks that wrote them. Its own file storage
keeps the index in `.metadata`, a pickle, so that reading a folder from elsewhere could run code. Its storage in the
format of Hugging Face keeps the places of shards as JSON in the headers of safetensors files: nothing is unpickled.
Each rank plans for itself (`no_dist`), because DCP would exchange plans between ranks as pickles.
"""

from __future__ import annotations

import math
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

FILES = "sharded-*.safetensors"


def write_shards(folder: Path, state: dict[str, Tensor], rank: int, size: int) -> None:
    """Write one rank's file.

    Args:
        folder: of the checkpoint; all ranks write into it.
        state: sharded tensors (`DTensor`) by name, and whole ones, which one rank alone must have.
        rank: of the writer.
        size: how many ranks write.

    Raises:
        OSError: the file cannot be written.
    """
    part = folder / f"rank-{rank}"
    with _by_itself():
        save(state, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True), no_dist=True)
    (file,) = part.glob("*.safetensors")
    file.rename(folder / f"sharded-{rank + 1:05d}-of-{size:05d}.safetensors")
    shutil.rmtree(part)


def read_shards(folder: Path, state: dict[str, Tensor]) -> None:
    """Fill a rank's tensors, in place, from the files of any number of ranks.

    Raises:
        ValueError: files, tensors or parts of them are missing, or have another shape.
    """
    paths = sorted(folder.glob(FILES))
    whole = re.fullmatch(r"sharded-\d+-of-(\d+)", paths[0].stem) if paths else None
    if whole is None or len(paths) != int(whole[1]):
        wanted = "of an unknown number" if whole is None else f"of {int(whole[1])}"
        raise ValueError(f"{len(paths)} {wanted} files of the sharded optimizer are there")
    reader = HuggingFaceStorageReader(str(folder))
    saved = reader.read_metadata().state_dict_metadata
    for name, tensor in state.items():
        entry = saved.get(name)
        if not isinstance(entry, TensorStorageMetadata) or entry.size != tensor.shape:
            raise ValueError(f"the sharded optimizer has no {name} of the shape {list(tensor.shape)}")
        there = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
        if there != tensor.numel():
            raise ValueError(f"the sharded optimizer has {there} of {tensor.numel()} values of {name}")
    with _by_itself():
        load(state, storage_reader=reader, no_dist=True)


@contextmanager
def _by_itself() -> Iterator[None]:
    """DCP in one process: it would warn of that, and wrap errors into one that `except Exception` does not catch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise cause from error
