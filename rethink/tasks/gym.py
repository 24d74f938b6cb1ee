"""Problems of reasoning-gym: made on demand, by task name and parameters, scored by the task's own checker."""

from __future__ import annotations

import difflib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from rethink.errors import TaskError
from rethink.recipe.schema import TaskSource
from rethink.tasks.source import KeepsKey, draw
from rethink.tasks.split import question_key
from rethink.types import Problem

INDICES = 2**31 - 1
"""Problems are drawn from so many; a task that has fewer says so by an IndexError."""
REMEMBERED = 4096
"""Problems whose entries are kept for their checker; older ones are made again."""
SOLUTIONS = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Tasks with many right answers and no gold one: the metadata's key of one that is right."""
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
    judge: Mapping[str, Any] = {"kind": "reasoning-gym"}

    def __init__(self, name: str, source: TaskSource, seed: int):
        self.name = name
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
            index = self._index(stage, draw(self._seed, self.name, count, attempt))
            entry = self._entry(stage, index)
            if keeps(question_key(entry["question"])):
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
            if key in seen or not keeps(key):
                continue
            barren = 0
            seen.add(key)
            yield self._problem(f"{self.name}/held-out/{len(seen) - 1}", stage, index, entry)

    def score(self, problem: Problem, answer: str) -> float | None:
        """The score of the task itself, 0 to 1; many tasks give partial credit."""
        stage, index = problem.metadata["stage"], problem.metadata["index"]
        return float(self._stages[stage][1].score_answer(answer, self._entry(stage, index)))

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
        answer = entry["answer"]
        if answer is None and self._task in SOLUTIONS:
            known = entry["metadata"][SOLUTIONS[self._task]]
            answer = known if isinstance(known, str) else json.dumps(known)
        metadata = {"task": self._task, "stage": stage, "index": index, "params": self._stages[stage][0]}
        return Problem(name, self.name, str(entry["question"]), None if answer is None else str(answer), metadata)


def make_dataset(task: str, params: Mapping[str, Any]) -> Any:
    """The reasoning-gym data set of a task; its seed is fixed, since the index decides the problem.

    Raises:
        TaskError: no such task (with the nearest names), or parameters that it does not have or refuses.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = difflib.get_close_matches(task, sorted(DATASETS), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise TaskError(
            f"reasoning-gym has no task `{task}`; {hint}It has {len(DATASETS)}: see `python -c 'import "
            "reasoning_gym.factory as f; print(*sorted(f.DATASETS))'`"
        )
    _check_json(task, params)
    try:
        return reasoning_gym.create_dataset(task, **{"seed": 0, **params})
    except TypeError as error:
        known = ", ".join(getattr(DATASETS[task][1], "__dataclass_fields__", {}))
        raise TaskError(
            f"the task `{task}` does not take {dict(params)} ({error}); its parameters are {known}"
        ) from error
    except (AssertionError, ValueError, KeyError, AttributeError) as error:
        reason = f": {error}" if str(error) else ""
        raise TaskError(f"the task `{task}` refuses {dict(params)}{reason}; change these parameters") from error


def _size(dataset: Any) -> int:
    """How many problems a data set can make: most are endless, some hold a list."""
    try:
        dataset[INDICES - 1]
    except IndexError:
        return len(dataset)
    except Exception:  # whatever is wrong with it shows where a problem is made, with a message
        return INDICES
    return INDICES


def _check_json(task: str, params: Mapping[str, Any]) -> None:
    try:
        json.dumps(params)
    except (TypeError, ValueError) as error:
        raise TaskError(f"the parameters of `{task}` must be plain values (JSON): {error}") from error
