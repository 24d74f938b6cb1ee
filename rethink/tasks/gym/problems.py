"""Problems of reasoning-gym: made on demand, by task name and parameters, and what their golds are worth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from rethink.errors import TaskError
from rethink.recipe.schema import TaskSource
from rethink.seeds import draw
from rethink.tasks.gym.library import gold_answer, make_dataset
from rethink.tasks.gym.ours import OURS
from rethink.tasks.source import KeepsKey
from rethink.tasks.split import question_key, split_key
from rethink.types import Problem

INDICES = 2**31 - 1
"""Problems are drawn from so many; a task that has fewer says so by an IndexError."""
REMEMBERED = 4096
"""Problems whose entries are kept for their checker; older ones are made again."""
ATTEMPTS = 2000
"""Draws without a usable question after which a task's domain counts as exhausted."""


class GymSource:
    """One reasoning-gym task, with its curriculum.

    A problem is decided by (parameters, seed of the draw), so nothing has to be stored to find it again.

    Args:
        name: of the source within the run.
        source: the recipe's entry.
        seed: of the run.

    Raises:
        TaskError: an unknown task or parameters that the task refuses.
    """

    separate = False

    def __init__(self, name: str, source: TaskSource, seed: int):
        self.name = name
        self.judge: Mapping[str, Any] = {"kind": "reasoning-gym", "task": source.name}
        self._task = source.name
        self._seed = seed
        stages = [dict(source.params)]
        for stage in source.curriculum:
            stages.append({**stages[-1], **stage.params})
        self._from_step = [0, *(stage.step for stage in source.curriculum)]
        self._stages = [(params, make_dataset(source.name, params)) for params in stages]
        self._sizes = [_size(dataset) for _, dataset in self._stages]
        self._entries: OrderedDict[tuple[int, int], Mapping[str, Any]] = OrderedDict()

    def separate_keys(self) -> tuple[set[int], set[int]]:
        """No separate file: held-out questions are known by their hash alone."""
        return set(), set()

    def train_problem(self, count: int, step: int, keeps: KeepsKey) -> Problem:
        """See `Source`. Draws until a question falls on the training side."""
        stage = max(i for i, first in enumerate(self._from_step) if first <= step)
        for attempt in range(ATTEMPTS):
            index = self._index(stage, draw("source", self._seed, self.name, count, attempt))
            entry = self._entry(stage, index)
            if keeps(split_key(entry["question"])):
                return self._problem(f"{self.name}/train/{count}", stage, index, entry)
        raise TaskError(
            f"the task `{self._task}` with {self._stages[stage][0]} made no question for training in {ATTEMPTS} "
            "draws: it has too few different questions. Widen its parameters, or choose another task."
        )

    def held_out(self, keeps: KeepsKey) -> Iterator[Problem]:
        """See `Source`. Ends when many draws in a row bring no question that is new."""
        stage, seen, barren, attempt = len(self._stages) - 1, set[int](), 0, 0
        while barren < ATTEMPTS:
            index = self._index(stage, draw("held-out", self._task, attempt))
            attempt += 1
            entry = self._entry(stage, index)
            key = question_key(entry["question"])
            barren += 1
            if key in seen or not keeps(split_key(entry["question"])):
                continue
            barren = 0
            seen.add(key)
            yield self._problem(f"{self.name}/held-out/{len(seen) - 1}", stage, index, entry)

    def gold_score(self, problem: Problem) -> float | None:
        """See `Source`. The library may judge its own gold answer here, whatever its scorer does with text."""
        stage, index = problem.metadata["stage"], problem.metadata["index"]
        entry, gold = self._entry(stage, index), problem.answer
        if gold is None:
            return None
        if self._task in OURS:
            return OURS[self._task].judge(gold, entry)
        return float(self._stages[stage][1].score_answer(gold, entry))

    def reads_gold(self, problem: Problem) -> bool:
        """See `Source`: the task checks its answers."""
        return True

    def _index(self, stage: int, number: int) -> int:
        """A problem's index from a random number."""
        return number % self._sizes[stage]

    def _entry(self, stage: int, index: int) -> Mapping[str, Any]:
        key = (stage, index)
        if key not in self._entries:
            try:
                self._entries[key] = self._stages[stage][1][index]
            except Exception as error:
                raise TaskError(
                    f"the task `{self._task}` with {self._stages[stage][0]} failed to make problem {index} "
                    f"({type(error).__name__}: {error}); change its parameters"
                ) from error
            if len(self._entries) > REMEMBERED:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]

    def _problem(self, name: str, stage: int, index: int, entry: Mapping[str, Any]) -> Problem:
        metadata = {"task": self._task, "stage": stage, "index": index, "params": self._stages[stage][0]}
        return Problem(name, self.name, str(entry["question"]), gold_answer(self._task, entry), metadata)


def _size(dataset: Any) -> int:
    """How many problems a data set can make: most are endless, some hold a list."""
    try:
        dataset[INDICES - 1]
    except IndexError:
        return len(dataset)
    except Exception:  # whatever is wrong with it shows where a problem is made, with a message
        return INDICES
    return INDICES
