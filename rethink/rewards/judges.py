"""The judges of a rubric's tasks, and where each is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rethink.recipe.reward import Place
from rethink.rewards.gym_reward import SandboxedGymJudge, place_of
from rethink.tasks.judge import Judge, JudgeSpec
from rethink.tasks.judging import cannot_hang, make_judge


def judge_place(spec: JudgeSpec) -> Place:
    """Where a judge is called: see `rethink.rewards.builtin.Place`."""
    if spec["kind"] == "reasoning-gym":
        return place_of(spec["task"])
    return "here" if cannot_hang(spec) else "worker"


def reward_judges(specs: Mapping[str, JudgeSpec]) -> dict[str, Judge]:
    """The judges of specs, by task name.

    Raises:
        TaskError: a function of the user's cannot be loaded.
        SandboxUnavailable: a task's scorer needs a sandbox, and none can be started here.
    """
    return {
        name: SandboxedGymJudge(spec["task"]) if judge_place(spec) == "thread" else make_judge(spec)
        for name, spec in specs.items()
    }


def threaded(specs: Mapping[str, JudgeSpec]) -> dict[str, Place]:
    """Of the tasks, those whose answers are judged in the sandbox, which a thread waits for."""
    return {name: "thread" for name, spec in specs.items() if judge_place(spec) == "thread"}


def worker_spec(rubric: Mapping[str, Any]) -> dict[str, Any]:
    """A rubric as its workers know it: without the judges that are called elsewhere."""
    elsewhere = threaded(rubric["judges"])
    return {**rubric, "judges": {name: spec for name, spec in rubric["judges"].items() if name not in elsewhere}}
