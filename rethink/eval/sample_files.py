"""Every completion of an evaluation, as Parquet: a folder a benchmark, a file whenever some have been collected.

A file appears whole or not at all, so a killed evaluation keeps what was written and resumes from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.store.atomic import storage_errors
from rethink.store.rollout_files import column_names, read_rows, write_table

FLUSH_SAMPLES = 256
FLUSH_SECONDS = 20.0
"""A file is written after so many samples, or so long after the last one."""
LARGE = ("prompt", "text", "token_ids")
"""Columns that only a reader of the samples wants."""
_TYPES = {
    "problem_id": "string",
    "sample": "int32",
    "seed": "int64",
    "group": "string",
    "question": "string",
    "gold": "string",
    "prompt": "string",
    "prompt_hash": "string",
    "prefill": "string",
    "text": "string",
    "token_ids": "list<int32>",
    "tokens": "int32",
    "finish_reason": "string",
    "answer": "string",
    "score": "float64",
    "failure": "string",
    "judged_by": "string",
    "detail": "string",
    "mixing": "float64",
    "seconds": "float64",
    "file_seconds": "float64",
}
_LATER: dict[str, Any] = {"judged_by": ""}
"""Columns that earlier versions did not write, and their values then."""


@dataclass(slots=True)
class Sample:
    """One completion with its verdict. See docs/evaluation.md for the columns."""

    problem_id: str
    sample: int
    """Which of the problem's k, from 0."""
    seed: int
    group: str
    question: str
    gold: str | None
    prompt: str
    prompt_hash: str
    prefill: str
    text: str
    token_ids: list[int]
    """Empty where the backend does not give them."""
    tokens: int
    finish_reason: str
    answer: str | None
    """None: unparsed."""
    score: float | None
    """None: the gold cannot be read."""
    failure: str | None
    """What the grader raised; the score is then 0."""
    judged_by: str
    """Hash of gold answer, grader and its version: what the verdict depends on beside the completion."""
    detail: str
    """JSON: what else the grader says."""
    mixing: float | None
    """Share of words in another script than the question's."""
    seconds: float
    file_seconds: float = 0.0
    """Seconds of generation since the file before; the same in all rows of a file."""


class SampleStore:
    """The samples of one benchmark. One process at a time may add to it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._waiting: list[Sample] = []
        self._seconds = 0.0
        self._flushed = time.monotonic()

    def read(self, *, whole: bool = False) -> list[Sample]:
        """All samples, each as it was judged last, in the order in which they were first written.

        Large columns (`LARGE`) are empty unless `whole`. Raises `RunFolderError` on a damaged file.
        """
        found: dict[tuple[str, int], Sample] = {}
        for path in self._files():
            for sample in self._of(path, whole):
                found[sample.problem_id, sample.sample] = sample
        return list(found.values())

    def seconds(self) -> float:
        """Seconds of generation behind the samples."""
        total = 0.0
        for path in self._files():
            first = read_rows(path, ["file_seconds"], first=1)
            total += float(first[0]["file_seconds"]) if first else 0.0
        return total

    def add(self, sample: Sample, seconds: float) -> None:
        """Keep a sample; `seconds`: of generation since the last one was added."""
        self._waiting.append(sample)
        self._seconds += seconds
        if len(self._waiting) >= FLUSH_SAMPLES or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises `StorageFailure`."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.partition("-")[2]) for path in self._files()]
        path = self._folder / f"part-{max(numbers, default=-1) + 1:06d}.parquet"
        for sample in self._waiting:
            sample.file_seconds = self._seconds
        _write(path, self._waiting)
        for sample in self._waiting:  # they are on disk now; an evaluation of long answers would fill the memory
            sample.token_ids, sample.text, sample.prompt = [], "", ""
        self._waiting, self._seconds = [], 0.0

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("part-*.parquet") if path.stem.partition("-")[2].isdigit())

    def _of(self, path: Path, whole: bool) -> Iterator[Sample]:
        there = set(column_names(path))
        names = [field.name for field in fields(Sample) if whole or field.name not in LARGE]
        names = [name for name in names if name in there or name not in _LATER]
        if not set(names) <= there:
            raise RunFolderError(
                f"`{path}` does not have the columns of an evaluation's samples; it was written by something else: "
                "remove it, or give another --out"
            )
        rest = _LATER | ({} if whole else {"prompt": "", "text": "", "token_ids": []})
        for row in read_rows(path, names):
            yield Sample(**(rest | row))


def _write(path: Path, samples: Sequence[Sample]) -> None:
    import pyarrow as pa

    rows: list[Mapping[str, Any]] = [asdict(sample) for sample in samples]
    arrays = {}
    for name, kind in _TYPES.items():
        plain = kind.removeprefix("list<").removesuffix(">")
        wanted = pa.type_for_alias(plain)
        values = [_utf8(row[name]) for row in rows]
        arrays[name] = pa.array(values, type=wanted if plain == kind else pa.list_(wanted))
    write_table(path, pa.table(arrays))


def _utf8(value: Any) -> Any:
    """A lone surrogate, which UTF-8 cannot hold, becomes "?"."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
