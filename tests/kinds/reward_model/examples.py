"""Preference data that a tiny model can learn: the chosen response holds one word, the rejected one another."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

RECIPE = """\
name: tiny-rm
kind: reward-model
epochs: 4
threads: 1
model: {{path: {model}, dtype: float32}}
data:
  - {{path: {data}}}
batch_size: 8
optimizer: {{learning_rate: 3.0e-3, micro_batch_tokens: 150}}
evaluation: {{share: 0.25, every: 4}}
checkpoint: {{every: 3}}
"""
WORDS = "alpha beta gamma delta omega".split()


def pairs(number: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    dice = random.Random(seed)

    def around(word: str) -> str:
        return " ".join([*dice.choices(WORDS, k=2), word, *dice.choices(WORDS, k=2)])

    return [{"prompt": f"Question {i}?", "chosen": around("good"), "rejected": around("bad")} for i in range(number)]


def labelled(number: int = 60) -> list[dict[str, Any]]:
    rows = pairs(number)
    good = [{"prompt": row["prompt"], "response": row["chosen"], "label": True} for row in rows]
    return good + [{"prompt": row["prompt"], "response": row["rejected"], "label": False} for row in rows]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
