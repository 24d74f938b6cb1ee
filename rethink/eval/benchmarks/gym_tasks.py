"""A reasoning-gym task as a benchmark: its held-out problems, its own judge."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

from rethink.eval.benchmark import Benchmark, Grader, Row, SchemaError, Values, Verdict
from rethink.eval.grading.stated_answer import tagged_answer
from rethink.eval.grading.workers import worker_score
from rethink.recipe.schema import TaskSource
from rethink.rewards.gym_reward import SandboxedGymJudge
from rethink.tasks.gym.problems import GymSource
from rethink.tasks.gym.scorers import who_judges
from rethink.types import Problem

PROBLEMS = 200
"""How many problems are made where `--limit` does not say."""
PROMPT = "{question}\nPlease reason step by step, and put your final answer between <answer> and </answer>."


def gym_benchmark(task: str) -> Benchmark:
    """The benchmark of a task of the library, with its default parameters."""
    return Benchmark(
        name=task,
        title=task,
        family="puzzle",
        data=None,
        read=_no_rows,
        prompt=PROMPT,
        grader=Grader(f"reasoning-gym: the task's own judge ({task})", _judge, _equal, partial(_check, task)),
        make=partial(gym_problems, task),
        source=f"reasoning-gym {task}",
    )


def gym_problems(task: str, number: int | None) -> Iterator[Problem]:
    """Problems of a task in a fixed order; the first of them are the same whatever the number.

    Raises:
        TaskError: the library cannot make them.
    """
    wanted = PROBLEMS if number is None else number
    for place, problem in enumerate(_source(task).held_out(lambda _: True)):
        if place == wanted:
            return
        yield problem


@cache
def _source(task: str) -> GymSource:
    return GymSource(task, TaskSource(kind="reasoning-gym", name=task), seed=0)


def _check(task: str) -> None:
    """Refuse a task whose answers cannot be judged here, before anything is generated."""
    if who_judges(task) == "sandbox":
        SandboxedGymJudge(task)


def _judge(problem: Problem, turn: str) -> Verdict:
    answer, options = tagged_answer(turn), {"task": problem.task, "answer": "text"}
    return Verdict(answer, 0.0 if answer is None else worker_score("gym", options, problem, answer))


def _equal(answer: str, other: str) -> bool:
    return answer.split() == other.split()


def _no_rows(row: Values) -> Row | None:
    raise SchemaError("a reasoning-gym task makes its problems itself; leave --data out")
