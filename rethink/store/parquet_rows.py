"""Parquet files of the user's, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rethink.errors import TaskError


def parquet_rows(path: Path, advice: str) -> Iterator[tuple[str, object]]:
    """Each row as (its position, its values by column).

    Args:
        path: the file.
        advice: what to do where it cannot be read, to end that error with.

    Raises:
        TaskError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            first = 1
            for batch in file.iter_batches():
                for number, row in enumerate(batch.to_pylist(), first):
                    yield f"`{path}`, row {number}", row
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise TaskError(f"the file `{path}` cannot be read ({error}); {advice}") from error
