"""A sample as it goes through curation, and as `samples.jsonl` and `train.jsonl` hold it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rethink.kinds.samples.recipe import CurateRecipe
from rethink.recipe.schema import PromptSection
from rethink.types import Completion, FinishReason, Problem, Prompt

KEPT = "kept"
ENDPOINT = "endpoint"
"""Key in `failures` of a sample that an endpoint was asked for and did not give."""
GENERAL = "general"
"""Task of what is mixed in without reasoning."""
NO_PROMPT = Prompt("", ())
"""A sample's completion is the whole turn: nothing of it stands in a prompt."""


@dataclass(slots=True)
class Sample:
    """One question with one answer; `reason` says what became of it."""

    id: str
    """Hash of task, question and index."""
    task: str
    question: str
    gold: str | None
    messages: list[dict[str, str]]
    """What comes before the answer."""
    completion: str
    """The assistant's turn, with what the prompt began of it."""
    tokens: int
    """Of the completion."""
    finish_reason: FinishReason
    source: dict[str, Any]
    """model, stage, seed, index."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """By reward part: why it gave no score."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the task's checker needs."""
    reason: str = KEPT
    judge: float | None = None
    """The judge's score, where it was asked."""
    original: str | None = None
    """The completion before it was rewritten."""

    @property
    def kept(self) -> bool:
        """Whether nothing dropped it so far."""
        return self.reason == KEPT

    @property
    def rounds(self) -> int:
        """Turns of the assistant."""
        return 1 + sum(message["role"] == "assistant" for message in self.messages)

    def problem(self) -> Problem:
        """What its checker is given."""
        return Problem(self.id, self.task, self.question, self.gold, self.metadata)

    def row(self) -> dict[str, Any]:
        """As `samples.jsonl` has it."""
        return {
            "id": self.id,
            "task": self.task,
            "question": self.question,
            "gold": self.gold,
            "messages": self.conversation(),
            "completion": self.completion,
            "kept": self.kept,
            "reason": self.reason,
            "rewards": self.rewards,
            "tokens": self.tokens,
            "finish_reason": self.finish_reason,
            "source": self.source,
            "failures": self.failures,
            "judge": self.judge,
            "original": self.original,
            "metadata": self.metadata,
        }

    def training_row(self) -> dict[str, Any]:
        """As `train.jsonl` has it."""
        return {"id": self.id, "task": self.task, "messages": self.conversation()}

    def conversation(self) -> list[dict[str, str]]:
        """All turns."""
        return [*self.messages, {"role": "assistant", "content": self.completion}]


def from_row(row: Mapping[str, Any]) -> Sample:
    """The sample that `Sample.row` wrote."""
    names = ("id", "task", "question", "gold", "completion", "tokens", "finish_reason", "reason", "judge", "original")
    values: dict[str, Any] = {name: row[name] for name in names}
    values |= {name: dict(row[name]) for name in ("source", "rewards", "failures", "metadata")}
    return Sample(**values, messages=[dict(message) for message in row["messages"][:-1]])


def sample_id(task: str, question: str, index: int) -> str:
    """The same for the same task, question and index, wherever they come from (hex)."""
    text = "\x1f".join((task, question, str(index))).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=10).hexdigest()


def new_sample(
    recipe: CurateRecipe, section: PromptSection, problem: Problem, index: int, model: str, seed: int
) -> Sample:
    """A sample that has no completion yet: the `index`-th of a problem that a model was asked with a seed."""
    return Sample(
        id=sample_id(problem.task, problem.question, index),
        task=problem.task,
        question=problem.question,
        gold=problem.answer,
        messages=turns_before(section, problem.question),
        completion="",
        tokens=0,
        finish_reason="stop",
        source={"model": model, "stage": recipe.name, "seed": seed, "index": index},
        metadata={**problem.metadata},
    )


def turns_before(section: PromptSection, question: str) -> list[dict[str, str]]:
    """The turns that a sample is trained with: system message and instruction; examples are left out."""
    system = [{"role": "system", "content": section.system}] if section.system is not None else []
    return [*system, {"role": "user", "content": section.instruction.replace("{question}", question)}]


def turns_asked(section: PromptSection, question: str) -> list[dict[str, str]]:
    """The turns that an endpoint is asked with: as `turns_before`, and the examples."""
    *system, last = turns_before(section, question)
    shown = [
        turn
        for example in section.examples
        for turn in (
            {"role": "user", "content": section.instruction.replace("{question}", example.question)},
            {"role": "assistant", "content": example.completion},
        )
    ]
    return [*system, *shown, last]


def as_completion(text: str, token_ids: Sequence[int], finish_reason: FinishReason) -> Completion:
    """A text that no engine of ours sampled, as reward parts take it: its log-probabilities are not known (NaN)."""
    ids = np.asarray(token_ids, np.int32)
    unknown = np.full(len(ids), np.nan, np.float32)
    return Completion(ids, text, unknown, unknown, finish_reason)
