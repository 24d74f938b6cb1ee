"""What a report is made of, gathered from a run's folder: plain facts, and a bounded sample of texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rethink.analysis.reflection import REFLECTION_WORDS, count_reflection
from rethink.store.cluster_log import losses
from rethink.store.completeness import lost_parts
from rethink.store.run_folder import RunFolder

MAX_ROLLOUTS = 400
"""Most training rollouts in one page."""
MAX_BATCHES = 25
"""Most batches that they are taken from, spread evenly, the first and the last among them."""
MAX_HELD_OUT = 60
"""Most held-out problems in one page, each with its completions before and after."""
MAX_SAMPLE_BYTES = 2_500_000
"""Most bytes of sample JSON; longer texts are cut in the middle until it fits."""

_COLUMNS = (
    "batch", "step", "prompt_index", "sample_index", "problem_id", "task", "question", "answer", "prompt", "text",
    "tokens", "reward", "reward_parts", "advantage", "finish_reason", "seconds",
)  # fmt: skip


def report_data(folder: RunFolder) -> dict[str, Any]:
    """The facts of a run as JSON takes them: recipe, metrics, evaluations, summary. No sample texts."""
    rows = folder.metrics()
    batches = folder.batches()
    return {
        "path": folder.path.name,
        "recipe_hash": folder.recipe_hash,
        "recipe": folder.recipe,
        "choices": folder.choices,
        "environment": folder.environment,
        "steps_done": max((int(row["step"]) for row in rows), default=0),
        "metrics": [{name: json_number(value) for name, value in row.items()} for row in rows],
        "evaluations": [
            {"step": row["step"]}
            | {n.removeprefix("eval/"): json_number(v) for n, v in row.items() if n[:5] == "eval/"}
            for row in rows
            if "eval/accuracy" in row
        ],
        "rollout_batches": len(batches),
        "summary": folder.read_summary(),
        "best": folder.best(),
        "lost": lost_parts(folder),
        "cluster": losses(folder.path),
    }


def json_number(value: Any) -> Any:
    """The value, or None for a number that JSON lacks."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items, spread evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[-most:]) if most else []
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def sample(folder: RunFolder) -> dict[str, Any]:
    """The texts of a report: training rollouts and held-out completions, bounded in number and bytes.

    `rollouts` come in whole groups, the first of each chosen batch; `shown` and `total` say how many of how many.
    """
    chosen = spread(folder.batches(), MAX_BATCHES)
    rows: list[dict[str, Any]] = []
    for index, batch in enumerate(chosen):
        room = (MAX_ROLLOUTS - len(rows)) // (len(chosen) - index)
        rows += _whole_groups(folder.rollout_rows(batch, _COLUMNS, first=room + 1), room)
    held_out = _held_out(folder)
    total = sum(folder.count_rollouts(batch) for batch in folder.batches())
    limit = max((len(row["text"]) for row in [*rows, *held_out]), default=0)
    while True:
        data = _pack(rows, held_out, limit) | {"shown": len(rows), "total": total, "text_limit": limit}
        if limit <= 500 or len(json.dumps(data)) <= MAX_SAMPLE_BYTES:
            return data
        limit = max(500, limit // 2)


def _whole_groups(rows: list[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """The first `room` rows without a group that would be cut; where no whole one fits, the part that does."""
    if len(rows) <= room:
        return rows
    cut = rows[room]["prompt_index"]
    whole = [row for row in rows[:room] if row["prompt_index"] != cut]
    return whole or rows[:room]


def _held_out(folder: RunFolder) -> list[dict[str, Any]]:
    """Samples of the first and the last evaluation, of the same problems."""
    names = folder.samples()
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*names[:1], *names[-1:]]):
        found = folder.read_samples(name) or []
        rows += [{**row, "evaluation": name} for row in found[:MAX_HELD_OUT]]
    return [row for row in rows if isinstance(row.get("text"), str)]


def _pack(rows: list[dict[str, Any]], held_out: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Rows as short JSON; a prompt, which a whole group shares, is stored once."""
    prompts: dict[str, int] = {}

    def pack(row: Mapping[str, Any]) -> dict[str, Any]:
        prompt = clip(str(row.get("prompt") or row.get("question") or ""), limit)
        return {
            "prompt": prompts.setdefault(prompt, len(prompts)),
            "problem": row.get("problem_id"),
            "task": row.get("task"),
            "answer": row.get("answer"),
            "text": clip(row["text"], limit),
            "finish": row.get("finish_reason"),
            "tokens": row.get("tokens"),
        }

    training = [
        pack(row)
        | {
            "batch": row["batch"],
            "step": row["step"],
            "group": row["prompt_index"],
            "sample": row["sample_index"],
            "reward": json_number(row["reward"]),
            "parts": {n: part for n, part in json.loads(row["reward_parts"]).items() if part.get("applied", True)},
            "advantage": json_number(row["advantage"]),
            "seconds": json_number(row["seconds"]),
        }
        for row in rows
    ]
    evaluated = [
        pack(row)
        | {"evaluation": row["evaluation"], "parts": {n: {"score": row.get(n)} for n in ("accuracy", "format")}}
        for row in held_out
    ]
    return {"prompts": list(prompts), "rollouts": training, "held_out": evaluated}


def clip(text: str, limit: int) -> str:
    """The text, or its beginning and end with a note of how much is left out between them."""
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail]}\n[… {len(text) - limit} characters left out …]\n{text[len(text) - tail :]}"


def word_counts(rollouts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per batch of packed rollouts: completions, words, and occurrences of each word of reflection."""
    batches: dict[int, dict[str, Any]] = {}
    for row in rollouts:
        entry = batches.setdefault(row["batch"], {"batch": row["batch"], "completions": 0, "words": 0, "counts": {}})
        entry["completions"] += 1
        entry["words"] += len(row["text"].split())
        for word, count in count_reflection(row["text"]).items():
            entry["counts"][word] = entry["counts"].get(word, 0) + count
    return [batches[batch] for batch in sorted(batches)]


def words_that_occur(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Words of reflection that occur at all, the most frequent first."""
    totals = {word: sum(entry["counts"].get(word, 0) for entry in counts) for word in REFLECTION_WORDS}
    return sorted((word for word, total in totals.items() if total), key=lambda word: -totals[word])
