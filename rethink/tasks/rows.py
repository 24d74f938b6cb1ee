"""Problems from lists of rows: JSONL files, hub data sets, and functions of the user's own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import TaskError, how_to_install
from rethink.recipe.schema import TaskSource
from rethink.seeds import draw
from rethink.store.jsonl import read_jsonl
from rethink.tasks.answers import read_gold
from rethink.tasks.checkers import choose_checker
from rethink.tasks.judge import JudgeSpec
from rethink.tasks.judging import make_judge
from rethink.tasks.plugins import load_function, where_raised
from rethink.tasks.source import KeepsKey
from rethink.tasks.split import question_key, split_key
from rethink.types import Problem

Scorer = Callable[[Problem, str], float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A problem before it has a name."""

    question: str
    answer: str | None
    metadata: Mapping[str, Any]


class RowSource:
    """A finite list of problems, read in shuffled epochs.

    Args:
        name: of the source within the run.
        train: rows to train on (and to hold out from, where there is no `held_out`).
        held_out: rows of a separate held-out file or split.
        checker: compares an answer with the gold.
        seed: of the run: decides the order of training.
        judge: what `checker` is, as plain values.
    """

    def __init__(
        self, name: str, train: list[Row], held_out: list[Row] | None, checker: Scorer, seed: int, judge: JudgeSpec
    ):
        self.name = name
        self.judge = judge
        self.separate = held_out is not None
        self._rows = train
        self._held_out = held_out
        self._checker = checker
        self._seed = seed
        self._keys = [split_key(row.question) for row in train]
        self._allowed: list[int] | None = None
        self._order: tuple[int, list[int]] = (-1, [])

    def separate_keys(self) -> tuple[set[int], set[int]]:
        """Split keys of both files, where there are two."""
        if self._held_out is None:
            return set(), set()
        return set(self._keys), {split_key(row.question) for row in self._held_out}

    def content_hash(self) -> str:
        """SHA-256 (hex) of all rows: tells them from those that a data set or a function gives at another time."""
        rows = [[row.question, row.answer, row.metadata] for row in [*self._rows, *(self._held_out or [])]]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def train_problem(self, count: int, step: int, keeps: KeepsKey) -> Problem:
        """See `Source`. Each epoch visits every allowed row once, in an order of its own."""
        row = self._row_at(count, keeps)[1]
        return self._problem(self._rows[row], self._name_of(row))

    def place(self, count: int, keeps: KeepsKey) -> tuple[str, int]:
        """(id, epoch) of the `count`-th problem for training. Raises as `train_problem`."""
        epoch, row = self._row_at(count, keeps)
        return self._name_of(row), epoch

    def _row_at(self, count: int, keeps: KeepsKey) -> tuple[int, int]:
        """(epoch, row)."""
        if self._allowed is None:
            self._allowed = [i for i, key in enumerate(self._keys) if keeps(key)]
        if not self._allowed:
            raise TaskError(
                f"`{self.name}` has no problem left to train on: all {len(self._rows)} are held out. Give more "
                "problems, or a separate file as `held_out`."
            )
        epoch, place = divmod(count, len(self._allowed))
        if self._order[0] != epoch:
            order = list(self._allowed)
            random.Random(draw("source", self._seed, self.name, "epoch", epoch)).shuffle(order)
            self._order = (epoch, order)
        return epoch, self._order[1][place]

    def _name_of(self, row: int) -> str:
        return f"{self.name}/train/{row}"

    def train_rows(self, wanted: Callable[[str], bool], keeps: KeepsKey) -> Iterator[Problem]:
        """Every problem for training whose question is wanted, in the order of the file."""
        for i, row in enumerate(self._rows):
            if wanted(row.question) and keeps(self._keys[i]):
                yield self._problem(row, self._name_of(i))

    def held_out(self, keeps: KeepsKey) -> Iterator[Problem]:
        """See `Source`. A separate file is taken whole; otherwise what the hash holds out. No question twice."""
        rows = self._rows if self._held_out is None else self._held_out
        kind = "held-out-file" if self.separate else "held-out"
        order = list(range(len(rows)))
        random.Random(draw("source", self.name, "held-out")).shuffle(order)
        seen: set[int] = set()
        for i in order:
            key = question_key(rows[i].question)
            if key not in seen and (self.separate or keeps(split_key(rows[i].question))):
                seen.add(key)
                yield self._problem(rows[i], f"{self.name}/{kind}/{i}")

    def gold_score(self, problem: Problem) -> float | None:
        """See `Source`."""
        return None if problem.answer is None else self._checker(problem, problem.answer)

    def reads_gold(self, problem: Problem) -> bool:
        """See `Source`: it is asked with an answer that is as good as any."""
        return self._checker(problem, "0") is not None

    def _problem(self, row: Row, name: str) -> Problem:
        return Problem(name, self.name, row.question, row.answer, row.metadata)


def jsonl_source(name: str, source: TaskSource, seed: int, gold: bool = True) -> RowSource:
    """Problems of a JSONL file, keys named in the recipe. Without `gold`, rows need no answer (so too below).

    Raises:
        TaskError: a missing file, a line that is not JSON (file and line), a missing key, or an empty file.
    """
    train = _read_jsonl(Path(source.name), source, gold)
    held_out = None if source.held_out is None else _read_jsonl(Path(source.held_out), source, gold)
    return _source(name, source, train, held_out, seed)


def hub_source(name: str, source: TaskSource, seed: int, gold: bool = True) -> RowSource:
    """Problems of a hub data set (extra `hub`).

    Raises:
        TaskError: the extra is not installed, the data set cannot be loaded, a missing key, or an empty split.
    """
    train = _read_hub(source, source.split, gold)
    held_out = None if source.held_out is None else _read_hub(source, source.held_out, gold)
    return _source(name, source, train, held_out, seed)


def python_source(name: str, source: TaskSource, seed: int, gold: bool = True) -> RowSource:
    """Problems of the user's `module:function(**params)`.

    The function returns rows with `question` and `answer` (mappings; further keys become metadata), or a pair of such
    rows and a function `score(problem, answer) -> float | None`.

    Raises:
        TaskError: the function cannot be found, raises, or returns something else.
    """
    function = load_function(source.name, "tasks.name", TaskError)
    try:
        made = function(**source.params)
        own: Scorer | None = None
        if isinstance(made, tuple) and len(made) == 2 and callable(made[1]):
            made, own = made
        values = list(made)
    except Exception as error:
        raise TaskError(
            f"{source.name}({', '.join(source.params)}) raised {type(error).__name__}: {error}{where_raised(error)}"
        ) from error
    rows = [_row(value, source, f"{source.name}, row {number}", gold) for number, value in enumerate(values)]
    if source.checker == "task" and own is None:
        raise TaskError(
            f"tasks.checker is `task`, but {source.name} returns rows alone; return (rows, score) with "
            "score(problem, answer) -> float | None, or choose another checker"
        )
    return _source(name, source, rows, None, seed, own)


def _source(
    name: str, source: TaskSource, train: list[Row], held_out: list[Row] | None, seed: int, own: Scorer | None = None
) -> RowSource:
    for rows, what in ((train, source.name), (held_out, f"{source.name} ({source.held_out})")):
        if rows is not None and not rows:
            raise TaskError(f"`{what}` holds no problems; give a file or split with at least one")
    if own is not None and source.checker in ("auto", "task"):
        judge: JudgeSpec = {"kind": "python", "function": source.name, "params": dict(source.params)}
        return RowSource(name, train, held_out, own, seed, judge)
    kind = choose_checker(source, [row.answer for row in train])
    judge = {"kind": kind}
    return RowSource(name, train, held_out, make_judge(judge), seed, judge)


def _read_jsonl(path: Path, source: TaskSource, gold: bool) -> list[Row]:
    advice = "paths are relative to the folder that the command runs in: correct tasks.name or tasks.held_out"
    return [_row(value, source, where, gold) for where, value in read_jsonl(path, "the problems file", advice)]


def _read_hub(source: TaskSource, split: str, gold: bool) -> list[Row]:
    data = load_hub(source.name, source.config, split)
    return [_row(value, source, f"`{source.name}` ({split}), row {number}", gold) for number, value in enumerate(data)]


def load_hub(name: str, config: str | None, split: str) -> Iterable[Any]:
    """The rows of a split of a hub data set (extra `hub`).

    Raises:
        TaskError: the extra is not installed, or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            f"data sets of the hub need the package `datasets`; install the extra: {how_to_install('hub')}"
        ) from error
    try:
        with _quiet_hub():
            rows: Iterable[Any] = datasets.load_dataset(name, config, split=split)
            return rows
    except Exception as error:  # the library raises many types
        raise TaskError(
            f"the data set `{name}` ({config or 'default configuration'}, split `{split}`) cannot be "
            f"loaded ({type(error).__name__}: {error}); check its name, `config` and `split`, log in if "
            "it is private, or without the hub give a JSONL file (problems: tasks.kind=jsonl, or a reasoning-gym task)"
        ) from error


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub, its library logs each of its retries: the error at the end says it once."""
    from huggingface_hub.utils import logging as hub_logging

    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _row(value: object, source: TaskSource, where: str, gold: bool) -> Row:
    """A row's problem. Without `gold`, it may lack the key of the gold answer."""
    if not isinstance(value, Mapping):
        raise TaskError(f"{where} is {type(value).__name__}, not an object with the keys of the recipe")
    for field, key in (("question_key", source.question_key), ("answer_key", source.answer_key)):
        if key not in value and (gold or key != source.answer_key):
            have = ", ".join(map(str, list(value)[:20])) or "no keys"
            raise TaskError(f"{where} has no key `{key}` (it has {have}); set tasks.{field}")
    question, answer = value[source.question_key], value.get(source.answer_key)
    if not isinstance(question, str) or not question.strip():
        raise TaskError(f"{where}: `{source.question_key}` must be a text that is not empty, not {question!r}")
    rest = {str(k): v for k, v in value.items() if k not in (source.question_key, source.answer_key)}
    return Row(question, read_gold(answer, source.answer_format), _json_only(rest))


def _json_only(values: Mapping[str, Any]) -> dict[str, Any]:
    """What survives JSON; the rest (images, dates) as text."""
    kept: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return kept
