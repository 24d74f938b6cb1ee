"""Checking answers to reasoning-gym tasks with our own functions and with those of its scorers that only compare.

task ─► who_judges ─► ours:     its rule (`rethink.tasks.gym.ours`)
                      compares: the library's scorer, here, on text of bounded size
                      sandbox:  refused here; see `rethink.rewards.gym_reward`
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from rethink.errors import TaskError
from rethink.tasks.gym.library import make_dataset
from rethink.tasks.gym.ours import OURS, Entry
from rethink.tasks.gym.scorers import DEFAULT, MAX_TEXT, NUMERIC, plain_numbers, who_judges
from rethink.tasks.judge import Judge
from rethink.types import Problem

REMEMBERED = 256
"""Entries that are kept: the completions of one problem come close together."""


class GymJudge(Judge):
    """Judges answers to tasks that need no sandbox; entries are made again from the problem's metadata."""

    def __init__(self) -> None:
        super().__init__(self._judge, load_library)
        self._datasets: dict[str, Any] = {}
        self._entries: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def judge_entry(self, task: str, params: Mapping[str, Any], answer: str, entry: Entry) -> float | None:
        """What the judge of a task says of an answer to an entry (`question`, `answer`, `metadata`).

        Raises:
            TaskError: the task's scorer belongs into the sandbox.
            Exception: the scorer fails on the gold answer too (on an empty one, where it knows no gold).
        """
        check_here(task)
        if len(answer) > MAX_TEXT:
            return 0.0
        if task in OURS:
            return OURS[task].judge(answer, entry)
        if task in NUMERIC and not plain_numbers(answer):
            return 0.0
        dataset = self._dataset(task, params)
        try:
            return float(dataset.score_answer(answer, entry))
        except Exception:
            # Wrong, if the scorer can judge at all: whether an answer is judged must not depend on the answer.
            float(dataset.score_answer(entry["answer"] or "", entry))
            return 0.0

    def _judge(self, problem: Problem, answer: str) -> float | None:
        task, params = problem.metadata["task"], problem.metadata["params"]
        check_here(task)
        if task in DEFAULT or (task in OURS and not OURS[task].needs_metadata):
            # The gold answer is enough: the problem need not be made again.
            return None if problem.answer is None else self.judge_entry(task, params, answer, bare_entry(problem, {}))
        return self.judge_entry(task, params, answer, self._entry(problem))

    def _entry(self, problem: Problem) -> Entry:
        task, params, index = (problem.metadata[key] for key in ("task", "params", "index"))
        place = (json.dumps([task, params], sort_keys=True), index)
        if place not in self._entries:
            self._entries[place] = self._dataset(task, params)[index]
            if len(self._entries) > REMEMBERED:
                self._entries.popitem(last=False)
        entry: Entry = self._entries[place]
        check_same(problem, entry)
        return entry

    def _dataset(self, task: str, params: Mapping[str, Any]) -> Any:
        key = json.dumps([task, params], sort_keys=True)
        if key not in self._datasets:
            self._datasets[key] = make_dataset(task, params)
        return self._datasets[key]


def check_here(task: str) -> None:
    """Refuse to judge in this process what must be judged in the sandbox.

    Raises:
        TaskError: names the task.
    """
    if who_judges(task) == "sandbox":
        raise TaskError(f"the scorer of the task `{task}` runs in the sandbox alone, since it computes with the answer")


def check_same(problem: Problem, entry: Entry) -> None:
    """Check that an entry is the problem's.

    Raises:
        TaskError: the library made another one.
    """
    golds = (entry["answer"], problem.answer)
    # Other judges than comparisons follow the question alone: another right answer in its place does not matter.
    same = None in golds or str(golds[0]) == golds[1] or who_judges(problem.metadata["task"]) != "compares"
    if str(entry["question"]) != problem.question or not same:
        raise TaskError(
            f"`{problem.metadata['task']}` makes another problem {problem.metadata['index']} in each process, so its "
            "answers cannot be judged: take another task, or try PYTHONHASHSEED=0"
        )


def bare_entry(problem: Problem, metadata: Mapping[str, Any]) -> Entry:
    """An entry of what the problem itself says."""
    return {"question": problem.question, "answer": problem.answer, "metadata": metadata}


def load_library() -> None:
    """Import what the first call would import."""
    import reasoning_gym  # noqa: F401
    from reasoning_gym.factory import DATASETS  # noqa: F401
