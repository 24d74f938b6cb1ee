"""Weights on their way from the trainer to workers: packed as arrays, loaded in place, compared by checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rethink.errors import EngineFailure
from rethink.model.language_model import LanguageModel

Arrays = dict[str, "np.ndarray[Any, Any]"]
"""By name of the parameter; bfloat16 as 16-bit integers."""


def packed(parameters: Iterable[tuple[str, Tensor]]) -> Arrays:
    """A model's named parameters as arrays that share their memory (on a GPU: copies)."""
    return {name: _array(parameter) for name, parameter in parameters}


def checksum(arrays: Arrays) -> str:
    """SHA-256 (hex) of a model's parameters: names, types, shapes, values."""

    def digest(entry: tuple[str, np.ndarray[Any, Any]]) -> bytes:
        name, array = entry
        head = f"{name} {array.dtype} {array.shape}\n".encode()
        return hashlib.sha256(head + hashlib.sha256(np.ascontiguousarray(array).data).digest()).digest()

    with ThreadPoolExecutor(min(4, torch.get_num_threads())) as threads:  # hashing leaves the interpreter's lock
        return hashlib.sha256(b"".join(threads.map(digest, sorted(arrays.items())))).hexdigest()


def load(model: LanguageModel, arrays: Mapping[str, np.ndarray[Any, Any]], expected: str) -> None:
    """Copy arrays into a model's parameters, and compare what it then has with a checksum.

    Raises:
        EngineFailure: names or shapes are another model's, or the checksum differs.
    """
    parameters = dict(model.named_parameters())
    if parameters.keys() != arrays.keys():
        strange = sorted(parameters.keys() ^ arrays.keys())[:3]
        raise EngineFailure(f"the weights are another model's: {', '.join(strange)} is on one side only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            array = arrays[name]
            if tuple(array.shape) != tuple(parameter.shape):
                raise EngineFailure(f"the weights are another model's: {name} has the shape {array.shape}")
            if parameter.device.type == "cpu":
                np.copyto(_array(parameter), array)
            else:
                parameter.copy_(torch.from_numpy(array.copy()).view(parameter.dtype))
    if (found := checksum(packed(model.named_parameters()))) != expected:
        raise EngineFailure(f"the weights that arrived have the checksum {found[:12]}, and {expected[:12]} was sent")


def _array(parameter: Tensor) -> np.ndarray[Any, Any]:
    value = parameter.detach().cpu()
    return value.view(torch.int16).numpy() if value.dtype == torch.bfloat16 else value.numpy()
