"""Rollouts as Parquet: everything that training saw, readable by pandas, DuckDB and Polars, and exact on the way back.

One row a rollout. Token ids are int32, log-probabilities float32 (bit for bit), rewards float64. What has no fixed
columns (a problem's metadata, the outcomes of the reward parts) is JSON text. Strings are UTF-8; a lone surrogate,
which UTF-8 cannot hold, becomes "?".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rethink.errors import RunFolderError
from rethink.store.atomic import write_bytes
from rethink.store.integrity import parquet_is_whole, sealed_parquet
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout, SamplingMask, Turn

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

COMPRESSION = "zstd"
ROW_GROUP = 256
"""Rows stored together: reading the first few of a large batch then costs little."""


def rollout_row(rollout: Rollout) -> dict[str, Any]:
    """One rollout as the columns of the file, without its place (batch, step, indices)."""
    problem, prompt, completion = rollout.problem, rollout.prompt, rollout.completion
    parts = {name: _part_row(part) for name, part in rollout.outcomes.items()}
    advantage = rollout.advantage
    several = isinstance(advantage, np.ndarray)
    return {
        "problem_id": _utf8(problem.id),
        "task": _utf8(problem.task),
        "question": _utf8(problem.question),
        "answer": _utf8(problem.answer),
        "problem_metadata": json.dumps(dict(problem.metadata)),
        "prompt": _utf8(prompt.text),
        "prompt_token_ids": np.asarray(prompt.token_ids, dtype=np.int32),
        "prefill": _utf8(prompt.prefill),
        "token_ids": completion.token_ids,
        "tokens": len(completion.token_ids),
        "text": _utf8(completion.text),
        "logprobs": completion.logprobs,
        "sampled_logprobs": completion.sampled_logprobs,
        "finish_reason": completion.finish_reason,
        "seconds": completion.seconds,
        "reward": rollout.reward,
        "reward_parts": json.dumps(parts),
        "advantage": float(np.mean(advantage)) if several else None if math.isnan(advantage) else advantage,
        "version": completion.version,
        "turns": json.dumps([astuple(turn) for turn in rollout.turns]) if rollout.turns else None,
        "token_advantages": advantage if several else (),
        "mask_counts": () if completion.mask is None else completion.mask.counts,
        "mask_ids": () if completion.mask is None else completion.mask.ids,
    }


def row_rollout(row: Mapping[str, Any]) -> Rollout:
    """The rollout of a row: the inverse of `rollout_row`."""
    parts = json.loads(row["reward_parts"])
    token_advantages, advantage = row.get("token_advantages", ()), row["advantage"]
    if len(token_advantages):
        advantage = np.asarray(token_advantages, np.float64)
    return Rollout(
        problem=Problem(
            id=row["problem_id"],
            task=row["task"],
            question=row["question"],
            answer=row["answer"],
            metadata=json.loads(row["problem_metadata"]),
        ),
        prompt=Prompt(
            text=row["prompt"], token_ids=tuple(int(i) for i in row["prompt_token_ids"]), prefill=row["prefill"]
        ),
        completion=Completion(
            token_ids=np.asarray(row["token_ids"], dtype=np.int32),
            text=row["text"],
            logprobs=np.asarray(row["logprobs"], dtype=np.float32),
            sampled_logprobs=np.asarray(row["sampled_logprobs"], dtype=np.float32),
            finish_reason=row["finish_reason"],
            seconds=row["seconds"],
            version=row.get("version"),
            mask=_mask(row),
        ),
        outcomes={name: RewardOutcome(**part) for name, part in parts.items()},
        reward=row["reward"],
        advantage=math.nan if advantage is None else advantage,
        turns=tuple(Turn(*turn) for turn in json.loads(row.get("turns") or "[]")),
    )


def _mask(row: Mapping[str, Any]) -> SamplingMask | None:
    counts, ids = (np.asarray(row.get(name, ()), dtype=np.int32) for name in ("mask_counts", "mask_ids"))
    return SamplingMask(counts, ids) if len(counts) else None


def _part_row(part: RewardOutcome) -> dict[str, Any]:
    return {"score": part.score, "failure": part.failure} | ({} if part.applied else {"applied": False})


def _utf8(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


_TYPES = {
    "batch": "int64",
    "step": "int64",
    "prompt_index": "int32",
    "sample_index": "int32",
    "problem_id": "string",
    "task": "string",
    "question": "string",
    "answer": "string",
    "problem_metadata": "string",
    "prompt": "string",
    "prompt_token_ids": "list<int32>",
    "prefill": "string",
    "token_ids": "list<int32>",
    "tokens": "int32",
    "text": "string",
    "logprobs": "list<float32>",
    "sampled_logprobs": "list<float32>",
    "finish_reason": "string",
    "seconds": "float64",
    "reward": "float64",
    "reward_parts": "string",
    "advantage": "float64",
    "version": "int64",
    "turns": "string",
    "token_advantages": "list<float64>",
    "mask_counts": "list<int32>",
    "mask_ids": "list<int32>",
}
_LATER = ("version", "turns", "token_advantages", "mask_counts", "mask_ids")
"""Columns that files of earlier versions do not have."""
COLUMNS = tuple(_TYPES)
"""The columns of a rollout file, in order; `write_rollouts` may add more behind them."""


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    item = name.removeprefix("list<").removesuffix(">")
    plain: pa.DataType = pa.type_for_alias(item)
    return plain if item == name else pa.list_(plain)


def write_rollouts(
    path: Path, batch: int, rollouts: Sequence[Rollout], extra: Mapping[str, Any], group_size: int | None
) -> None:
    """Write a batch, atomically. `extra`: one value for all rows (e.g. `step`), or one a rollout, by column name.

    Rollouts come prompt by prompt. Without `group_size`, neighbours with the same problem and prompt are one group.
    """
    import pyarrow as pa

    rows = [rollout_row(rollout) for rollout in rollouts]
    places = _places(rollouts, group_size)
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in COLUMNS[4:]}
    columns["batch"] = [batch] * len(rows)
    columns["step"] = [None] * len(rows)
    columns["prompt_index"] = [place[0] for place in places]
    columns["sample_index"] = [place[1] for place in places]
    for name, value in extra.items():
        columns[name] = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * len(rows)
    arrays = {name: pa.array(columns.pop(name), type=_arrow_type(kind)) for name, kind in _TYPES.items()}
    arrays |= {name: pa.array(values) for name, values in columns.items()}
    write_table(path, pa.table(arrays))


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of a file, exactly as written. Raises `RunFolderError` when it cannot be read."""
    table = _read_table(path, None)
    if missing := [name for name in COLUMNS if name not in (*table.column_names, *_LATER)]:
        raise RunFolderError(
            f"`{path}` has no column `{missing[0]}`, so it holds no rollouts: something else was put in its place. "
            "Restore it from a copy, or delete it."
        )
    lists = [name for name in table.column_names if _is_list(table.schema.field(name))]
    rows: list[dict[str, Any]] = table.drop_columns(lists).to_pylist()
    for name in lists:
        for row, value in zip(rows, _split_lists(table.column(name)), strict=True):
            row[name] = value
    return [row_rollout(row) for row in rows]


def read_rows(path: Path, columns: Sequence[str] | None = None, *, first: int | None = None) -> list[dict[str, Any]]:
    """Rows of a Parquet file as dictionaries: only the named columns, only the `first` rows, where given."""
    rows: list[dict[str, Any]] = _read_table(path, columns, first).to_pylist()
    return rows


def count_rows(path: Path) -> int:
    """Number of rows. Raises `RunFolderError` when the file is damaged."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def column_names(path: Path) -> list[str]:
    """Names of the columns. Raises `RunFolderError` when the file is damaged."""
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dictionaries as a Parquet file, atomically. Values that are mappings become JSON text.

    A column holds values of one type or None; a missing key is None.
    """
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: pa.array([_cell(row.get(name)) for row in rows]) for name in names})
    write_table(path, table)


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    return _utf8(value) if isinstance(value, str) else value


def _places(rollouts: Sequence[Rollout], group_size: int | None) -> list[tuple[int, int]]:
    """(prompt index, sample index within the group) of each rollout."""
    if group_size is not None:
        return [divmod(index, group_size) for index in range(len(rollouts))]
    places: list[tuple[int, int]] = []
    for index, rollout in enumerate(rollouts):
        before = rollouts[index - 1] if index else None
        if before is not None and before.problem.id == rollout.problem.id and before.prompt == rollout.prompt:
            places.append((places[-1][0], places[-1][1] + 1))
        else:
            places.append((places[-1][0] + 1 if places else 0, 0))
    return places


def _is_list(field: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(field.type))


def _split_lists(column: Any) -> list[Any]:
    """Each list of a column as a NumPy array of its own, without going through Python numbers."""
    arrays: list[Any] = []
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        values = chunk.values.to_numpy(zero_copy_only=False)
        arrays += [values[start:end].copy() for start, end in pairwise(offsets)]
    return arrays


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, atomically, with checksums of its pages and of the whole file (see `integrity`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=COMPRESSION, row_group_size=ROW_GROUP, write_page_checksum=True)
    write_bytes(path, sealed_parquet(sink.getvalue().to_pybytes()))


def _read_table(path: Path, columns: Sequence[str] | None, first: int | None = None) -> pa.Table:
    names = None if columns is None else list(columns)
    with _opened(path) as file:
        if first is None:
            return file.read(columns=names)
        groups: list[int] = []
        rows = 0
        while rows < first and len(groups) < file.num_row_groups:
            rows += file.metadata.row_group(len(groups)).num_rows
            groups.append(len(groups))
        return file.read_row_groups(groups, columns=names).slice(0, first)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file whose bytes are those that were written; whatever breaks inside the block is its damage.

    Raises:
        RunFolderError: it is damaged or cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = path.read_bytes()
        if not parquet_is_whole(data):
            raise ValueError("its content does not have its checksum")
        # ParquetFile and not `read_table`: the latter would read `name=value` in a folder's name as a column.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RunFolderError(
            f"`{path}` is not a whole Parquet file ({error}). Files of a run are written atomically, so it was damaged "
            "or replaced later: restore it from a copy, or delete it (what was lost with it is then said)."
        ) from error
