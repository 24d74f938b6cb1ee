"""Problems of a benchmark: from the hub, from a local JSONL file, or made by reasoning-gym."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rethink.errors import TaskError, how_to_install
from rethink.eval.benchmark import Benchmark, HubData, SchemaError
from rethink.store.jsonl import parse_line, read_jsonl
from rethink.types import Problem

ADVICE = "give --data BENCH=PATH with a JSONL file"


def load_problems(benchmark: Benchmark, path: Path | None, limit: int | None) -> list[Problem]:
    """The benchmark's problems, the first `limit` of them where given.

    Args:
        benchmark: of the registry.
        path: a JSONL file in place of the hub's data set: the hub's own columns, or `question`, `answer` and extras.
        limit: how many; None: all.

    Raises:
        TaskError: the data cannot be found or read, or a row has the wrong schema (which row and key).
    """
    path = path or benchmark.path
    if path is None and benchmark.make is not None:
        return list(benchmark.make(limit))
    rows = read_jsonl(path, "the data file", ADVICE) if path is not None else _hub_rows(benchmark)
    problems: list[Problem] = []
    ids: Counter[str] = Counter()
    for number, (where, values) in enumerate(rows):
        if limit is not None and len(problems) >= limit:
            break
        problem = _problem(benchmark, number, where, values)
        if problem is None:
            continue
        ids[problem.id] += 1
        if ids[problem.id] > 1:  # samples are kept by id, so that a second one needs its own
            problem = Problem(f"{problem.id}#{number}", *_rest(problem))
        problems.append(problem)
    if not problems:
        raise TaskError(f"{path or benchmark.name} holds no problem of {benchmark.name}; give data with at least one")
    return problems


def source_name(benchmark: Benchmark, path: Path | None) -> str:
    """Where the problems come from, for records and tables."""
    if path is not None or benchmark.path is not None:
        return str(path or benchmark.path)
    if benchmark.data is None:
        return benchmark.source
    return f"{benchmark.data.id}@{benchmark.data.revision[:12]}"


def _rest(problem: Problem) -> tuple[str, str, str | None, Mapping[str, Any]]:
    return problem.task, problem.question, problem.answer, problem.metadata


def _problem(benchmark: Benchmark, number: int, where: str, values: object) -> Problem | None:
    try:
        if not isinstance(values, Mapping):
            raise SchemaError(f"it is {type(values).__name__}, not an object")
        row = benchmark.read(values)
    except SchemaError as error:
        raise TaskError(f"{where}, does not have the schema of {benchmark.name}: {error}") from error
    if row is None:
        return None
    # Through JSON, so that what is judged now and what is read back later are the same.
    metadata = json.loads(json.dumps({**row.metadata, "group": row.group}, default=str))
    return Problem(row.id or f"{benchmark.name}/{number}", benchmark.name, row.question, row.answer, metadata)


def _hub_rows(benchmark: Benchmark) -> Iterator[tuple[str, object]]:
    data = benchmark.data
    assert data is not None
    for place, config in enumerate(data.configs):
        named = f"the hub's {data.id} ({config or 'default configuration'}, {data.split})"
        rows = _file_rows(benchmark, data, place) if data.files else _table_rows(benchmark, data, config)
        for number, values in enumerate(rows):
            if isinstance(values, dict) and config is not None:
                values = {"config": config, **values}
            yield f"{named}, row {number}", values


def _table_rows(benchmark: Benchmark, data: HubData, config: str | None) -> Iterable[object]:
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"{benchmark.name} comes from the hub, which needs the package `datasets`: {how_to_install('hub')}; or "
            f"give a local file: --data {benchmark.name}=PATH"
        ) from error
    try:
        rows: Iterable[object] = datasets.load_dataset(data.id, config, split=data.split, revision=data.revision)
    except Exception as error:  # the library raises many types
        raise _unreachable(benchmark, data, error) from error
    return rows


def _file_rows(benchmark: Benchmark, data: HubData, place: int) -> Iterator[object]:
    """Rows of the files that belong to a configuration: one each where there are several, else all."""
    from huggingface_hub import hf_hub_download

    names = (data.files[place],) if len(data.configs) > 1 or data.configs[0] is not None else data.files
    for name in names:
        try:
            path = Path(hf_hub_download(data.id, name, repo_type="dataset", revision=data.revision))
        except Exception as error:  # connection errors come from several libraries
            raise _unreachable(benchmark, data, error) from error
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                if name.endswith(".tsv"):
                    question, _, answer = line.rstrip("\n").rpartition("\t")
                    yield {"question": question, "answer": answer}
                else:
                    yield parse_line(line, f"the hub's {data.id}, {name}, line {number}")


def _unreachable(benchmark: Benchmark, data: HubData, error: Exception) -> TaskError:
    first = (str(error).strip().splitlines() or ["no details"])[0][:200]
    return TaskError(
        f"the data set {data.id} of {benchmark.name} cannot be loaded from the hub ({type(error).__name__}: {first}); "
        f"log in where it asks for that (`hf auth login`), or give a local JSONL file: --data {benchmark.name}=PATH"
    )
