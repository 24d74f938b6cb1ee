"""Samples that the user brings: rows of `samples.jsonl`, conversations, or question, completion and gold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.errors import TaskError
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.records import Sample, sample_id, turns_before
from rethink.recipe.schema import TaskSource
from rethink.tasks.checkers import choose_checker
from rethink.tasks.judge import JudgeSpec
from rethink.tasks.mix import TaskMix

QUESTION_KEYS, COMPLETION_KEYS, GOLD_KEYS = ("question", "prompt"), ("completion", "response"), ("gold", "answer")
GENERAL_ROW = "general"


def read_samples(recipe: CurateRecipe) -> tuple[Sample, ...]:
    """The samples of `recipe.source`, unscored. Rows of the task `general` (what an earlier run mixed in) are left out.

    Raises:
        TaskError: no such file, a line that is no sample (file and line), or none at all.
    """
    path = Path(str(recipe.source))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskError(
            f"the file `{path}` of `source` cannot be read ({error.strerror or error}); correct it"
        ) from error
    samples: list[Sample] = []
    seen: Counter[tuple[str, str]] = Counter()
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"`{path}`, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(
                f"{where}, is not JSON ({error}); each line is one JSON object: mend or remove it"
            ) from error
        if not isinstance(row, dict):
            raise TaskError(f"{where}, is {type(row).__name__}, not an object")
        if row.get("task") == GENERAL_ROW:
            continue
        samples.append(_sample(row, recipe, path.stem, seen, where))
    if not samples:
        raise TaskError(f"`{path}` holds no samples; give a JSONL file with at least one")
    return tuple(samples)


def judges_of(samples: tuple[Sample, ...], mix: TaskMix | None) -> dict[str, JudgeSpec]:
    """How answers are judged, by task: as the recipe's task of that name does, or by the golds, as for JSONL."""
    known = {} if mix is None else mix.judges()
    golds: dict[str, list[str | None]] = {}
    for sample in samples:
        golds.setdefault(sample.task, []).append(sample.gold)
    any_source = TaskSource(kind="jsonl", name="samples")
    found: dict[str, JudgeSpec] = {task: {"kind": choose_checker(any_source, own)} for task, own in golds.items()}
    for sample in samples:  # rows of an earlier run bring what the task's own scorer needs
        if {"task", "params", "index"} <= set(sample.metadata):
            found[sample.task] = {"kind": "reasoning-gym", "task": str(sample.metadata["task"])}
    return {**found, **known}


def _sample(
    row: Mapping[str, Any], recipe: CurateRecipe, stem: str, seen: Counter[tuple[str, str]], where: str
) -> Sample:
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        turns = [_message(entry, where) for entry in messages]
        if turns[-1]["role"] != "assistant":
            turns.append({"role": "assistant", "content": _text(row, COMPLETION_KEYS, where)})
        before, completion = turns[:-1], turns[-1]["content"]
        asked = [turn["content"] for turn in before if turn["role"] == "user"]
        if not asked:
            raise TaskError(f"{where} has no user's turn before the assistant's; a sample answers a question")
        question = row["question"] if isinstance(row.get("question"), str) else asked[-1]
    else:
        question, completion = _text(row, QUESTION_KEYS, where), _text(row, COMPLETION_KEYS, where)
        before = turns_before(recipe.prompt, question)
    original = row.get("original")  # of an earlier run's rewriting: what the model itself wrote
    task = row["task"] if isinstance(row.get("task"), str) else stem
    index = seen[task, question]
    seen[task, question] += 1
    gold = next((row[key] for key in GOLD_KEYS if row.get(key) is not None), None)
    given = row.get("source")
    return Sample(
        id=sample_id(task, question, index),
        task=task,
        question=question,
        gold=None if gold is None else str(gold),
        messages=before,
        completion=completion,
        tokens=0,
        finish_reason="length" if row.get("finish_reason") == "length" else "stop",
        source=dict(given) if isinstance(given, dict) else {"file": str(recipe.source), "index": index},
        metadata=dict(row["metadata"]) if isinstance(row.get("metadata"), dict) else {},
        original=original if isinstance(original, str) else None,
    )


def _message(entry: Any, where: str) -> dict[str, str]:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("content"), str)
        or not isinstance(entry.get("role"), str)
    ):
        raise TaskError(f'{where}: `messages` is a list of {{"role": …, "content": …}} with text in both')
    return {"role": entry["role"], "content": entry["content"]}


def _text(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str:
    for key in keys:
        if isinstance(row.get(key), str):
            return str(row[key])
    have = ", ".join(map(str, list(row)[:20])) or "no keys"
    raise TaskError(
        f"{where} has no text under `{'` or `'.join(keys)}` (it has {have}); a sample is `messages`, or `question` and "
        "`completion`, with `gold` where answers are checked"
    )
