"""What a benchmark is: where its problems are, how they are asked, how answers are judged, how the paper samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rethink.recipe.base import HeldOut
from rethink.recipe.schema import PromptSection
from rethink.types import Problem

PAPER_TEMPERATURE, PAPER_TOP_P, PAPER_MAX_TOKENS = 0.6, 0.95, 32_768
"""Sampling of arXiv 2501.12948, section 3 (evaluation setup)."""

Family = Literal["math", "choice", "reading", "short", "instructions", "code", "puzzle"]
"""Benchmarks of one family share their worked examples and the way an answer is written."""
Group = Literal["English", "Code", "Math", "Chinese", "Other"]
"""Block of the paper's Table 4."""


class SchemaError(ValueError):
    """A row does not have the benchmark's schema; the loader adds which row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set as a problem without a place."""

    question: str
    answer: str | None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    """Subject, level or language, for the breakdown."""


Values = Mapping[str, Any]
"""A row as the data set has it."""
Reader = Callable[[Values], Row | None]
"""One row of the hub's schema (or of a local file) -> problem; None: it does not belong. Raises `SchemaError`."""


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set on the hub."""

    id: str
    revision: str
    """Commit; `main` where no commit is known to us (see docs/benchmarks.md)."""
    split: str = "test"
    configs: tuple[str | None, ...] = (None,)
    """Configurations, read one after another; rows get the configuration's name as `config`."""
    files: tuple[str, ...] = ()
    """Files to read instead of a split, where the repository holds no tables: `.jsonl`, or `.tsv` of question and
    answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader says of one completion."""

    answer: str | None
    """The answer that was found; None: unparsed."""
    score: float | None
    """0 to 1; None where the gold cannot be read, so that nothing can be said."""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grader:
    """How completions are judged."""

    name: str
    judge: Callable[[Problem, str], Verdict]
    """(problem, the assistant's whole turn) -> verdict. May raise: completions are hostile input."""
    equal: Callable[[str, str], bool] | None
    """Whether two answers are equivalent, for cons@k; None where answers cannot be compared."""
    check: Callable[[], None] | None = None
    """Raises `UsageError` where something that judging needs is missing; called before anything is generated."""
    threads: bool = False
    """Whether several threads may judge at once: where the work is done by other processes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One entry of the registry."""

    name: str
    title: str
    """As the paper's tables call it."""
    family: Family
    data: HubData | None
    read: Reader
    prompt: str
    """The default user turn; `{question}` is the problem."""
    grader: Grader
    k: int = 1
    """Samples a problem: the paper's where it says, else 1."""
    metric: str = "Pass@1"
    """What the score is, as the paper's table calls it."""
    group: Group = "Other"
    language: Literal["en", "zh"] = "en"
    """Which worked examples and instructions the prompting modes use."""
    shots: bool = False
    """Whether the default prompt already holds worked examples."""
    path: Path | None = None
    """The user's own JSONL file, where the benchmark is one."""
    note: str = ""
    """Where it differs from the paper's protocol."""
    make: Callable[[int | None], Iterable[Problem]] | None = None
    """`(how many, or None)`: its problems in a fixed order, where it makes them itself."""
    source: str = ""
    """Where these come from, for records and tables."""
    section: PromptSection | None = None
    """How it is asked by default; None: `prompt` is the user's turn, in the model's chat template."""
    sampling: HeldOut | None = None
    """How it is sampled by default, once a problem; None: as in the paper."""
