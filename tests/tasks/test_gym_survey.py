"""Gold answers of reasoning-gym: every task of the installed version has been surveyed, and the fit ones are right."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from reasoning_gym.factory import DATASETS

from rethink.recipe.schema import TaskSource
from rethink.tasks.gym.library import REFUSED, SOLUTIONS
from rethink.tasks.gym.problems import GymSource
from tests.paths import ROOT


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    """The script `benchmarks/gym_survey.py` as a module."""
    spec = importlib.util.spec_from_file_location("gym_survey", ROOT / "benchmarks" / "gym_survey.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gym_survey"] = module
    spec.loader.exec_module(module)
    return module


def _gold_scores(task: str, params: dict[str, object], number: int) -> list[float | None]:
    source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=params), seed=3)
    problems = [source.train_problem(i, 0, lambda key: True) for i in range(number)]
    return [None if p.answer is None else source.gold_score(p) for p in problems]


@pytest.mark.parametrize("task", SOLUTIONS)
def test_tasks_without_a_gold_give_a_known_solution(task: str) -> None:
    assert _gold_scores(task, {}, 3) == [1.0, 1.0, 1.0]


def test_every_task_was_surveyed(survey: ModuleType) -> None:
    assert set(survey.read(survey.GOLD)) == set(DATASETS) - set(REFUSED)


def test_the_page_lists_every_task(survey: ModuleType) -> None:
    page = survey.table()
    assert page.strip() == (ROOT / "docs" / "reasoning-gym.md").read_text("utf-8").strip()
    assert all(f"`{task}`" in page for task in survey.tasks())


@pytest.mark.slow
def test_fit_tasks_give_full_marks_to_other_problems_too(survey: ModuleType) -> None:
    rows = survey.read(survey.GOLD)
    fit = [task for task in survey.tasks() if not survey.unfit(rows[task])]
    assert len(fit) > 90
    wrong = {task: scores for task in fit if (scores := _gold_scores(task, survey.easiest(task), 3)) != [1.0] * 3}
    assert not wrong
