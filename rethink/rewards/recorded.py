"""Rewards of recorded completions: what `rethink score` does.

Rows come from JSONL or from a run's rollouts. Each row is scored by each reward in the same workers as in training. For
the rewards of `ROW_OPTIONS` a row may bring options of its own (`params`), which take precedence over those of the
command. No other reward takes any from a row: a file from elsewhere must not choose the sandbox, an address or a limit.
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
from rethink.recipe.reward import rewards
from rethink.rewards.builtin import nearest
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Limits, Rubric, closing
from rethink.store.jsonl import read_jsonl
from rethink.store.rollout_files import read_rows
from rethink.types import Completion, FinishReason, Problem, Prompt, RewardOutcome, is_right

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
"""By which a score may differ from the number that a row expects (a row's own `tol` takes precedence)."""
MOST_TOKENS = 1 << 20
"""Longest completion that a row may state or list."""
UNREAD = "row: "
"""What the failure of a row begins with that holds nothing to score."""

Item = tuple[Problem, Prompt, Completion]


@dataclass(frozen=True, slots=True)
class Keys:
    """Under which keys a row holds what; None: the first of the usual ones that the row has."""

    gold: str | None = None
    completion: str | None = None
    expect: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of one row."""

    id: Any
    """The row's `id`, or its number."""
    score: float | None
    parts: Mapping[str, RewardOutcome]
    expected: Any
    """What the row expects; None where nothing is compared."""
    agrees: bool | None
    """None where nothing is compared."""

    @property
    def unread(self) -> str | None:
        """Why the row could not be scored at all; None where it was."""
        first = next(iter(self.parts.values())).failure or ""
        return first.removeprefix(UNREAD) if first.startswith(UNREAD) else None

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
        UsageError: an unknown reward or option, or no row that can be scored. Where some can, the others fail.
    """
    specs = [_part(name, options.get(name, {})) for name in names]
    unknown = sorted(set(options) - set(names))
    if unknown:
        hint = nearest(unknown[0], names)
        raise UsageError(f"--option names the reward `{unknown[0]}`, which --reward does not; {hint}")
    items, unread = _items(rows, keys)
    # Rows with options of their own are scored by rubrics of their own: one for each different set.
    takes = any(spec["builtin"] in ROW_OPTIONS for spec in specs)
    sets: dict[str, list[int]] = {}
    for i in items:
        params = rows[i].get("params") if takes else None
        sets.setdefault(json.dumps(params, sort_keys=True) if isinstance(params, dict) else "", []).append(i)
    results: dict[int, tuple[dict[str, RewardOutcome], float | None]] = {}
    for own, places in sets.items():
        try:
            rubric = _rubric([_with(spec, json.loads(own)) if own else spec for spec in specs], limits)
        except UsageError as error:
            if not own:
                raise
            unread |= dict.fromkeys(places, f"its own `params` are refused: {error}")
            continue
        with closing(rubric):
            scorings = [rubric.scoring([items[i][0]], [items[i][1]], 1) for i in places]
            for scoring, i in zip(scorings, places, strict=True):
                scoring.add(0, 0, items[i][2])
            for scoring, i in zip(scorings, places, strict=True):
                results[i] = scoring.results()[0][0]
    for i, row in enumerate(rows):
        failed = dict.fromkeys(names, RewardOutcome(None, f"{UNREAD}{unread.get(i)}"))
        outcomes, score = results.get(i, (failed, None))
        expected = _look(row, keys.expect) if keys.expect is not None else None
        agrees = None if keys.expect is None else i not in unread and agreement(score, expected, row.get("tol"))
        yield Scored(_id(row, i + 1), score, outcomes, expected, agrees)


def _items(rows: Sequence[Mapping[str, Any]], keys: Keys) -> tuple[dict[int, Item], dict[int, str]]:
    """What parts score, by place; and why the other rows are none of it.

    Raises:
        UsageError: no row can be scored; says why of the first.
    """
    items: dict[int, Item] = {}
    unread: dict[int, str] = {}
    for i, row in enumerate(rows):
        try:
            items[i] = row_item(row, i + 1, keys)
        except UsageError as error:
            unread[i] = str(error)
        except RecursionError:
            unread[i] = f"row {i + 1} is nested too deeply"
    if unread and not items:
        raise UsageError(unread[0])
    return items, unread


def _id(row: Mapping[str, Any], number: int) -> Any:
    """The row's id as JSON has it."""
    found = row.get("id", number)
    return found if isinstance(found, str | int) or found is None else str(found)


def agreement(score: float | None, expected: Any, tolerance: Any = None) -> bool:
    """Whether a score says what the row expects: a verdict (right or not), a number, or null for an abstention."""
    if expected is None or score is None:
        return score is None and expected is None
    if isinstance(expected, bool):
        return is_right(score) == expected
    if isinstance(expected, int | float):
        close = min(tolerance, 1e300) if isinstance(tolerance, int | float) else TOLERANCE
        return score - close <= expected <= score + close  # as comparisons, which take whole numbers of any size
    return False


def summarise(scored: Sequence[Scored], names: Sequence[str]) -> dict[str, Any]:
    """Counts for the table: of the whole and by part."""
    compared = [row for row in scored if row.agrees is not None]
    return {
        "rows": len(scored),
        "unread": sum(row.unread is not None for row in scored),
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
        "full": sum(map(is_right, known)),
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
    if name in rewards():
        return part | {"builtin": name}
    from reasoning_gym.factory import DATASETS

    if name in DATASETS:
        return part | {"builtin": "gym", "params": {"task": name} | dict(params)}
    raise UsageError(
        f"there is no reward `{name}`; {_hint(name, DATASETS)}built in are {', '.join(sorted(rewards()))}; a task of "
        "reasoning-gym is given by name, your own function as package.module:function or path/to/file.py:function"
    )


def _hint(name: str, tasks: Mapping[str, Any]) -> str:
    said, mark, _ = nearest(name, [*rewards(), *tasks]).partition("? ")
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


def row_item(row: Mapping[str, Any], number: int, keys: Keys) -> Item:
    """A row as what parts score.

    Raises:
        UsageError: it holds no completion where one is looked for, or no length that can be.
    """
    said = _text(_look(row, keys.completion) if keys.completion else _first(row, COMPLETION_KEYS))
    ids, length = _first(row, IDS_KEYS), _first(row, LENGTH_KEYS)
    if said is None and ids is None and length is None:
        wanted = f"`{keys.completion}`" if keys.completion else f"any of {', '.join(COMPLETION_KEYS)}"
        have = ", ".join(map(str, list(row)[:20]))
        raise UsageError(f"row {number} has no text under {wanted} (it has {have}); name its key with --completion")
    gold = _look(row, keys.gold) if keys.gold else _first(row, GOLD_KEYS)
    text = said or ""
    tokens = _tokens(ids, length, text, f"row {number}")
    name = str(row.get("id", number))
    metadata = {str(k): v for k, v in plain(dict(row)).items() if k not in ("token_ids", "text", "completion")}
    if isinstance(row.get(NESTED), Mapping):
        metadata |= row[NESTED]
    question = _text(_first(row, QUESTION_KEYS)) or ""
    problem = Problem(name, "rows", question, _gold(gold), json.loads(json.dumps(metadata, default=str)))
    nothing = np.zeros(0, np.float32)
    reason: FinishReason = "length" if row.get("finish_reason") == "length" else "stop"
    return problem, Prompt("", (), str(row.get("prefill") or "")), Completion(tokens, text, nothing, nothing, reason)


def _tokens(ids: Any, length: Any, text: str, where: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Token ids; only their number where the row gives a length; words where it gives neither."""
    if isinstance(ids, list):
        if len(ids) > MOST_TOKENS or not all(type(i) is int and 0 <= i < 1 << 31 for i in ids):
            raise UsageError(f"{where} has token ids that are none: at most {MOST_TOKENS:,} whole numbers below 2^31")
        return np.asarray(ids, np.int32)
    if isinstance(length, bool) or not isinstance(length, int | float):
        return np.zeros(min(len(text.split()), MOST_TOKENS), np.int32)
    if not 0 <= length <= MOST_TOKENS or length != int(length):
        raise UsageError(f"{where} has the length {str(length)[:40]}; give a whole number from 0 to {MOST_TOKENS:,}")
    return np.zeros(int(length), np.int32)


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
