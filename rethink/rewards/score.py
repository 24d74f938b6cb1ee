"""Rewards of recorded completions: what `rethink score` does.

Rows come from JSONL or from a run's rollouts. Each row is scored by each reward in the same workers as in training. For
the rewards of `ROW_OPTIONS` a row may bring options of its own (`params`), which stand above those of the command. No
other reward takes any from a row: a file from elsewhere must not choose the sandbox, an address or a limit.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rethink.errors import UsageError
from rethink.recipe.fields import plain
from rethink.rewards.builtin import BUILT_IN, nearest
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Limits, Rubric, closing
from rethink.store.jsonl import read_jsonl
from rethink.store.rollout_files import read_rows
from rethink.types import Completion, FinishReason, Problem, Prompt, RewardOutcome

GOLD_KEYS = ("gold", "answer", "target", "solution", "expected_answer", "ground_truth")
COMPLETION_KEYS = ("completion", "response", "pred", "prediction", "output", "generation", "text")
QUESTION_KEYS = ("question", "problem", "prompt")
LENGTH_KEYS = ("length", "tokens")
IDS_KEYS = ("token_ids", "completion_ids")
ROW_OPTIONS = ("cosine", "overlong", "repetition")
"""Built-in rewards whose options are numbers that only shape the score."""
NESTED = "inputs"
"""A row's mapping in which keys are looked for too."""
TOLERANCE = 1e-4
"""By which a score may differ from the number that a row expects (a row's own `tol` stands above it)."""
RIGHT = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class Keys:
    """Under which keys a row holds what; None: the first of the usual ones that the row has."""

    gold: str | None = None
    completion: str | None = None
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one row."""

    id: Any
    """The row's `id`, or its number."""
    score: float | None
    parts: Mapping[str, RewardOutcome]
    expected: Any
    """What the row expects; None where nothing is compared."""
    agrees: bool | None
    """None where nothing is compared."""

    def row(self) -> dict[str, Any]:
        """As it is written: `failure` is null, or the failures by part."""
        failures = {name: outcome.failure for name, outcome in self.parts.items() if outcome.failure is not None}
        return {
            "id": self.id,
            "score": self.score,
            "parts": {name: outcome.score for name, outcome in self.parts.items()},
            "failure": "; ".join(f"{name}: {cause}" for name, cause in failures.items()) or None,
        }


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    keys: Keys,
    options: Mapping[str, Mapping[str, Any]],
    limits: Limits,
) -> Iterator[Scored]:
    """Score rows, in their order.

    Args:
        rows: of a file.
        names: of the rewards.
        keys: where a row holds its gold and its completion.
        options: of the rewards, by name.
        limits: of one call.

    Raises:
        UsageError: an unknown reward or option, or a row without a completion (with its place).
    """
    specs = [_part(name, options.get(name, {})) for name in names]
    unknown = sorted(set(options) - set(names))
    if unknown:
        hint = nearest(unknown[0], names)
        raise UsageError(f"--option names the reward `{unknown[0]}`, which --reward does not; {hint}")
    items = [row_item(row, number, keys) for number, row in enumerate(rows, 1)]
    # Rows with options of their own are scored by rubrics of their own: one for each different set.
    takes = any(spec["builtin"] in ROW_OPTIONS for spec in specs)
    own = [
        json.dumps(row["params"], sort_keys=True) if takes and isinstance(row.get("params"), dict) else ""
        for row in rows
    ]
    results: dict[int, tuple[dict[str, RewardOutcome], float | None]] = {}
    for params in dict.fromkeys(own):
        places = [i for i, value in enumerate(own) if value == params]
        with closing(
            _rubric([_with(spec, json.loads(params)) if params else spec for spec in specs], limits)
        ) as rubric:
            scorings = [rubric.scoring([items[i][0]], [items[i][1]], 1) for i in places]
            for scoring, i in zip(scorings, places, strict=True):
                scoring.add(0, 0, items[i][2])
            for scoring, i in zip(scorings, places, strict=True):
                results[i] = scoring.results()[0][0]
    for i, row in enumerate(rows):
        outcomes, score = results[i]
        expected = _look(row, keys.expect) if keys.expect is not None else None
        agrees = None if keys.expect is None else agreement(score, expected, row.get("tol"))
        yield Scored(row.get("id", i + 1), score, outcomes, expected, agrees)


def agreement(score: float | None, expected: Any, tolerance: Any = None) -> bool:
    """Whether a score says what the row expects: a verdict (right or not), a number, or null for an abstention."""
    if expected is None or score is None:
        return score is None and expected is None
    if isinstance(expected, bool):
        return (score >= RIGHT) == expected
    if isinstance(expected, int | float):
        close = tolerance if isinstance(tolerance, int | float) else TOLERANCE
        return abs(score - float(expected)) <= close
    return False


def summarise(scored: Sequence[Scored], names: Sequence[str]) -> dict[str, Any]:
    """Counts for the table: of the whole and by part."""
    compared = [row for row in scored if row.agrees is not None]
    return {
        "rows": len(scored),
        "score": _summary([row.score for row in scored], ()),
        "parts": {
            name: _summary(
                [row.parts[name].score for row in scored],
                [failure for row in scored if (failure := row.parts[name].failure) is not None],
            )
            for name in names
        },
        "compared": len(compared),
        "disagreements": [row.id for row in compared if not row.agrees],
    }


def _summary(scores: Sequence[float | None], failures: Sequence[str]) -> dict[str, Any]:
    known = [score for score in scores if score is not None]
    return {
        "scored": len(known),
        "mean": math.fsum(known) / len(known) if known else None,
        "full": sum(score >= RIGHT for score in known),
        "zero": sum(score == 0 for score in known),
        "abstained": len(scores) - len(known) - len(failures),
        "failed": len(failures),
        "causes": dict(Counter(failure.partition(":")[0] for failure in failures)),
    }


# --- rewards by name -------------------------------------------------------------------------------------------------


def _part(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = {"name": name, "weight": 1.0, "builtin": None, "function": None, "params": dict(params)}
    if ":" in name:
        return part | {"function": name}
    if name in BUILT_IN:
        return part | {"builtin": name}
    from reasoning_gym.factory import DATASETS

    if name in DATASETS:
        return part | {"builtin": "gym", "params": {"task": name} | dict(params)}
    raise UsageError(
        f"there is no reward `{name}`; {_hint(name, DATASETS)}built in are {', '.join(sorted(BUILT_IN))}; a task of "
        "reasoning-gym goes by its name, a function of yours as package.module:function or path/to/file.py:function"
    )


def _hint(name: str, tasks: Mapping[str, Any]) -> str:
    said, mark, _ = nearest(name, [*BUILT_IN, *tasks]).partition("? ")
    return said + mark


def _with(spec: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**spec, "params": {**spec["params"], **params}} if spec["builtin"] in ROW_OPTIONS else spec


def _rubric(parts: Sequence[Mapping[str, Any]], limits: Limits) -> Rubric:
    spec = {"answer": "auto", "judges": {}, "parts": list(parts)}
    return Rubric(spec, tuple(build_part(spec, index) for index in range(len(parts))), 1.0, limits)


# --- rows ------------------------------------------------------------------------------------------------------------


def read_data(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, of a Parquet file, or of all rollouts of a run's folder.

    Raises:
        UsageError: there is no such file, a line is not a JSON object, or there are no rows.
    """
    if path.is_dir():
        files = sorted((path / "rollouts").glob("*.parquet"))
        if not files:
            raise UsageError(f"`{path}` is a folder without rollouts/*.parquet; give a run's folder or a JSONL file")
        rows = [row for file in files for row in _run_rows(file)]
    elif path.suffix == ".parquet":
        rows = list(_run_rows(path))
    else:
        rows = list(_jsonl_rows(path))
    if not rows:
        raise UsageError(f"`{path}` holds no rows")
    return rows


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    for where, row in read_jsonl(path, "the file", "correct --data"):
        if not isinstance(row, dict):
            raise UsageError(f"{where}, is a {type(row).__name__}; each line is one JSON object")
        yield row


def _run_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(read_rows(path)):
        metadata = row.get("problem_metadata")
        row["metadata"] = json.loads(metadata) if isinstance(metadata, str) else {}
        row["completion"] = row.get("text")
        row.setdefault("id", f"{path.stem}/{number}")
        for key in ("logprobs", "sampled_logprobs", "prompt_token_ids", "problem_metadata"):
            row.pop(key, None)
        yield row


def _look(row: Mapping[str, Any], key: str) -> Any:
    """A row's value by key; dots lead into mappings; `inputs` is looked into as well."""
    for place in (row, row.get(NESTED)):
        value: Any = place
        for step in (key,) if isinstance(place, Mapping) and key in place else key.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _first(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((value for key in keys if (value := _look(row, key)) is not None), None)


def row_item(row: Mapping[str, Any], number: int, keys: Keys) -> tuple[Problem, Prompt, Completion]:
    """A row as what parts score.

    Raises:
        UsageError: it holds no completion where one is looked for.
    """
    said = _text(_look(row, keys.completion) if keys.completion else _first(row, COMPLETION_KEYS))
    ids, length = _first(row, IDS_KEYS), _first(row, LENGTH_KEYS)
    if said is None and ids is None and length is None:
        wanted = f"`{keys.completion}`" if keys.completion else f"any of {', '.join(COMPLETION_KEYS)}"
        have = ", ".join(map(str, list(row)[:20]))
        raise UsageError(f"row {number} has no text under {wanted} (it has {have}); name its key with --completion")
    gold = _look(row, keys.gold) if keys.gold else _first(row, GOLD_KEYS)
    text = said or ""
    tokens = _tokens(ids, length, text)
    name = str(row.get("id", number))
    metadata = {str(k): v for k, v in plain(dict(row)).items() if k not in ("token_ids", "text", "completion")}
    if isinstance(row.get(NESTED), Mapping):
        metadata |= row[NESTED]
    question = _text(_first(row, QUESTION_KEYS)) or ""
    problem = Problem(name, "rows", question, _gold(gold), json.loads(json.dumps(metadata, default=str)))
    nothing = np.zeros(0, np.float32)
    reason: FinishReason = "length" if row.get("finish_reason") == "length" else "stop"
    return problem, Prompt("", (), str(row.get("prefill") or "")), Completion(tokens, text, nothing, nothing, reason)


def _tokens(ids: Any, length: Any, text: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Token ids; only their number where the row gives a length; words where it gives neither."""
    if isinstance(ids, list):
        return np.asarray(ids, np.int32)
    count = length if isinstance(length, int) and not isinstance(length, bool) else len(text.split())
    return np.zeros(max(count, 0), np.int32)


def _text(value: Any) -> str | None:
    """A text, or the content of a conversation's last message."""
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    if isinstance(value, bool) or value is None:
        return None
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else None


def _gold(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _text(value) or None
