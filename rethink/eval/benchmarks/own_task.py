"""The tasks that a model was trained on as a benchmark: the run's held-out problems, asked and judged as in the run.

    rethink.json of the model ─► tasks · prompt · answer rule · sampling ─► Benchmark

A source that the file names (a file, a data set, Python code) is opened only where the user's own words name it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np

from rethink.errors import UsageError
from rethink.eval.benchmark import Benchmark, Grader, Row, SchemaError, Values, Verdict
from rethink.eval.benchmarks.gym_tasks import PROBLEMS
from rethink.model.loading import local_folder
from rethink.recipe.schema import RewardPart, TaskSource
from rethink.rewards.extract import extract_answer
from rethink.rewards.outcome import TIMEOUT
from rethink.rewards.rubric import Rubric, build_rubric
from rethink.store.as_trained import AsTrained, read_as_trained
from rethink.tasks.mix import TaskMix, build_task_mix
from rethink.types import Completion, Problem, Prompt, is_right

_GYM = "reasoning-gym/"
ACCURACY = "accuracy"
"""Name of the reward that says whether an answer is right."""


def own_benchmark(name: str, models: Sequence[str]) -> Benchmark | None:
    """The benchmark of that name, where one of the models was trained on a task of that name; None: none was.

    Args:
        name: as the user gave it: of a task, a file, a data set, or a function.
        models: as the user named them; those in local folders say how they were trained.

    Raises:
        UsageError: the models were trained on it in different ways, or the run's own judge cannot be had.
    """
    found = [(model, *own) for model in models if (own := _trained_on(name, model)) is not None]
    if not found:
        return None
    first, record, tasks = found[0]
    for model, other, others in found[1:]:
        if _asked_by(other, others) != _asked_by(record, tasks):
            raise UsageError(
                f"{first} and {model} were trained on {name} in different ways (prompt, answer rule, parameters or "
                "evaluation), so that one benchmark cannot ask both as they were trained. Evaluate each alone, or give "
                "--as-is"
            )
    return _benchmark(name, record, tasks)


def _asked_by(record: AsTrained, tasks: Sequence[TaskSource]) -> tuple[object, ...]:
    return record.prompt, record.answer, record.held_out, tuple(tasks)


def _trained_on(name: str, model: str) -> tuple[AsTrained, tuple[TaskSource, ...]] | None:
    """How a model was trained, and its tasks of that name; None where it has none."""
    folder = local_folder(model)
    try:
        record = None if folder is None else read_as_trained(folder)
    except UsageError:
        return None  # said when the model is loaded
    if record is None or record.prompt is None:
        return None
    tasks = tuple(_alone(task) for task in record.tasks if task.name == name.removeprefix(_GYM))
    return (record, tasks) if tasks else None


def _alone(task: TaskSource) -> TaskSource:
    """A source whose problems are drawn whatever its share in the run was."""
    stages = tuple(stage.model_copy(update={"weight": None}) for stage in task.curriculum)
    return task.model_copy(update={"weight": 1.0, "curriculum": stages})


def _benchmark(name: str, record: AsTrained, tasks: Sequence[TaskSource]) -> Benchmark:
    own = OwnTask(record, tasks)
    short = name.rpartition("/")[2].removesuffix(".jsonl") or name
    return Benchmark(
        name=short.replace(":", "-"),
        title=short,
        family="puzzle",
        data=None,
        read=_no_rows,
        prompt="{question}",
        grader=Grader(
            f"as in the run: the answer by the rule {record.reward.answer}, judged by the task's checker",
            own.judge,
            lambda answer, other: answer.split() == other.split(),
            threads=True,
        ),
        make=own.problems,
        source=f"held-out problems of the recipe {record.recipe}",
        section=record.prompt,
        sampling=record.held_out,
    )


class OwnTask:
    """Problems and judge of tasks that a model was trained on. Both are made when they are first needed.

    Args:
        record: how the model was trained.
        tasks: those of its tasks that are asked.

    Raises:
        UsageError: a function of the user's judged the answers.
    """

    def __init__(self, record: AsTrained, tasks: Sequence[TaskSource]):
        named = next((part for part in record.rewards if part.name == ACCURACY), None)
        if named is not None and named.function is not None:
            raise UsageError(
                f"the accuracy of the run was what `{named.function}` says, which is not run because a model's file "
                "names it. Give --as-is, or apply it with `rethink score`"
            )
        part = RewardPart(name=ACCURACY, builtin=None if named is None else named.builtin)
        self._reward = record.reward.model_copy(update={"parts": (part,)})
        self._record, self._tasks = record, tasks
        self._starting = Lock()

    def problems(self, limit: int | None) -> list[Problem]:
        """The held-out problems, as many as the run had where `limit` does not say.

        Raises:
            TaskError: a source cannot be found or read, or has no held-out problems.
        """
        of_run = self._record.held_out
        return self._mix.held_out(limit or (of_run.problems if of_run is not None else PROBLEMS))

    def judge(self, problem: Problem, turn: str) -> Verdict:
        """As the run judged: 1 where the answer is right, else 0; None where that cannot be said.

        Raises:
            TimeoutError: it took longer than a worker may.
            RuntimeError: it failed otherwise, with the named cause.
        """
        ids, none = np.zeros(0, np.int32), np.zeros(0, np.float32)
        with self._starting:
            rubric = self._rubric
        outcomes, _ = rubric.score(problem, Prompt("", ()), Completion(ids, turn, none, none, "stop"))
        outcome = outcomes[ACCURACY]
        if outcome.failure is not None:
            raise (TimeoutError if outcome.failure.startswith(TIMEOUT) else RuntimeError)(outcome.failure)
        answer = extract_answer(turn, "", self._reward.answer)
        return Verdict(answer, None if outcome.score is None else float(is_right(outcome.score)))

    @cached_property
    def _mix(self) -> TaskMix:
        return build_task_mix(self._tasks, self._reward, 0, steps=self._record.steps)

    @cached_property
    def _rubric(self) -> Rubric:
        """With its workers, which end with the process."""
        rubric = build_rubric(self._reward, self._mix.judges(), self._mix.rewarded())
        rubric.start()
        return rubric


def _no_rows(row: Values) -> Row | None:
    raise SchemaError("the problems are those of the run; leave --data out, or give --as-is")
