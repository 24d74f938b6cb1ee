"""The header of a GGUF file, read within bounds: its key/value pairs, and the positions of its tensors.

The `gguf` package's own reader follows whatever counts a file names (a file of fifty bytes may announce an array of
2^40 entries), and makes an array of every entry. Layout: docs/gguf.md of ggml.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rethink.errors import ModelError
from rethink.reading import check_regular_file

AGAIN = "the file is damaged or incomplete: download it again"
_VERSIONS = (2, 3)
_SCALARS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
"""numpy's names of the value types."""
_STRING, _ARRAY = 8, 9
_MOST_PAIRS, _MOST_TENSORS, _MOST_ENTRIES, _MOST_BYTES = 1 << 16, 1 << 16, 1 << 22, 1 << 28
"""Of pairs, of tensors, of entries in all arrays, and bytes of the header. The largest real ones have a hundred pairs,
two thousand tensors, a million entries and thirty megabytes."""
_MOST_AXES = 4
_LARGEST_ALIGNMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Position and type of a tensor."""

    name: str
    kind: str
    """F32, Q8_0, …"""
    shape: tuple[int, ...]
    """Row-major; GGUF writes the fastest axis first."""
    offset: int
    """First byte in the file."""
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class GgufHeader:
    """What a file says of itself, and its bytes, which are read when they are asked for."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    data: mmap.mmap


class _Damaged(Exception):
    """What is wrong with the header, for the end of a message."""


def read_header(path: Path, known_types: tuple[str, ...]) -> GgufHeader:
    """Read the header of a file.

    Args:
        path: the file.
        known_types: the tensor types that are read, for messages.

    Raises:
        ModelError: it is no GGUF file, cut short, written in big-endian order, or announces what cannot be.
    """
    try:
        check_regular_file(path, 1 << 62)
        with path.open("rb") as file:
            start = file.read(8)
            _check_start(start, path)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read as a GGUF file ({error}); check the path") from error
    try:
        return _Reader(data, known_types).header()
    except _Damaged as error:
        raise ModelError(f"the header of the GGUF file {path} cannot be used: {error}; {AGAIN}") from None


def _check_start(start: bytes, path: Path) -> None:
    if start[:4] != b"GGUF":
        raise ModelError(
            f"{path} is no GGUF file: it begins with {start[:4]!r} where b'GGUF' belongs; the download may have "
            "fetched a web page or a git-lfs pointer instead. Download it again"
        )
    version = int.from_bytes(start[4:], "little")
    if version in _VERSIONS and len(start) == 8:
        return
    if int.from_bytes(start[4:], "big") < 1 << 16 and len(start) == 8:
        raise ModelError(
            f"{path} is a big-endian GGUF file, made for another kind of processor (s390x), and little-endian ones are "
            "read. Use the usual file of the model, or convert it with gguf-py's `gguf-convert-endian FILE little`"
        )
    raise ModelError(f"{path} is a GGUF file of version {version}, and {_VERSIONS} are read; {AGAIN}")


class _Reader:
    """Goes through the bytes once."""

    def __init__(self, data: mmap.mmap, known_types: tuple[str, ...]):
        self.data, self.known_types = data, known_types
        self.at, self.end = 8, min(len(data), _MOST_BYTES)
        self.entries = 0

    def header(self) -> GgufHeader:
        tensors, pairs = self.number("<u8"), self.number("<u8")
        if pairs > _MOST_PAIRS or tensors > _MOST_TENSORS:
            raise _Damaged(f"it announces {pairs:,} keys and {tensors:,} tensors")
        fields: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.text("a key")
            if key in fields:
                raise _Damaged(f"it has the key {key[:60]!r} twice")
            fields[key] = self.value(self.number("<u4"), key)
        infos = [self.tensor() for _ in range(tensors)]
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise _Damaged(f"its alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        stored: dict[str, StoredTensor] = {}
        for name, kind, shape, offset in infos:
            if name in stored:
                raise _Damaged(f"it has the tensor {name[:60]!r} twice")
            stored[name] = self.placed(name, kind, shape, start + offset)
        return GgufHeader(fields, stored, self.data)

    def take(self, count: int, what: str) -> int:
        """Step over bytes that must be there; returns where they begin."""
        at = self.at
        if count > self.end - at:
            raise _Damaged(f"{what} at byte {at} goes beyond its end")
        self.at = at + count
        return at

    def number(self, kind: str) -> int:
        width = int(kind[2])
        at = self.take(width, "a number")
        return int.from_bytes(self.data[at : at + width], "little")

    def text(self, what: str) -> str:
        length = self.number("<u8")
        at = self.take(length, what[:60])
        try:
            return self.data[at : at + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _Damaged(f"{what[:60]} at byte {at} is not UTF-8") from None

    def value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self.text(key)
        if kind != _ARRAY:
            return self.scalars(kind, 1, key)[0]
        kind, count = self.number("<u4"), self.number("<u8")
        self.entries += count
        if self.entries > _MOST_ENTRIES:
            raise _Damaged(f"{key[:60]!r} announces {count:,} entries")
        return [self.text(key) for _ in range(count)] if kind == _STRING else self.scalars(kind, count, key)

    def scalars(self, kind: int, count: int, key: str) -> list[Any]:
        name = _SCALARS.get(kind)
        if name is None:
            raise _Damaged(f"{key[:60]!r} holds values of type {kind}, which is not known")
        dtype = np.dtype(name)
        at = self.take(count * dtype.itemsize, key[:60])
        values: list[Any] = np.frombuffer(self.data[at : self.at], dtype, count).tolist()
        return values

    def tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        """Name, type, shape and offset, as they are written."""
        name = self.text("the name of a tensor")
        axes = self.number("<u4")
        if not 1 <= axes <= _MOST_AXES:
            raise _Damaged(f"the tensor {name[:60]!r} has {axes} axes")
        shape = tuple(self.number("<u8") for _ in range(axes))[::-1]
        return name, self.number("<u4"), shape, self.number("<u8")

    def placed(self, name: str, kind: int, shape: tuple[int, ...], offset: int) -> StoredTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            raise _Damaged(
                f"the tensor {name[:60]!r} is of type {kind}; known tensor types are {', '.join(self.known_types)}"
            ) from None
        block, width = GGML_QUANT_SIZES[known]
        values = 1
        for size in shape:
            values *= size
        if values == 0 or shape[-1] % block:
            raise _Damaged(f"the tensor {name[:60]!r} of type {known.name} has shape {list(shape)}")
        nbytes = values // block * width
        if offset + nbytes > len(self.data):
            raise _Damaged(f"the tensor {name[:60]!r} of {nbytes:,} bytes goes beyond its end")
        return StoredTensor(name, known.name, shape, offset, nbytes)
