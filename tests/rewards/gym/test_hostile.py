"""Answers that attack the scorers of reasoning-gym: none has an effect, and none changes a later verdict.

All tasks and fifty answers each, as reward; a few tasks through `rethink score`, `rethink eval` and training. The slow
tests take all tasks through all of these.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reasoning_gym.factory import DATASETS

from rethink.cli.main import main
from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.kinds.grpo.run import train
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.recipe.schema import TaskSource
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Limits, Rubric, closing
from rethink.rollout.engines.scripted import ScriptedEngine
from rethink.store.run_folder import RunFolder
from rethink.tasks.gym.library import REFUSED
from rethink.tasks.gym.problems import GymSource
from rethink.tasks.gym.scorers import who_judges
from rethink.types import Completion, Problem, Prompt, RewardOutcome
from tests.rewards.gym.payloads import Host, payloads
from tests.rewards.sandbox_needed import needs_sandbox

TASKS = sorted(set(DATASETS) - set(REFUSED))
SMALL: dict[str, dict[str, Any]] = {
    "knight_swap": {"max_nodes": 6, "max_steps": 8},
    "futoshiki": {"min_board_size": 4, "max_board_size": 4},
    "sokoban": {"min_w": 6, "max_w": 6, "min_h": 6, "max_h": 6, "min_boxes": 2, "max_boxes": 2},
}
"""Parameters of tasks whose default problems take long to make."""
CONFIRMED = ("countdown", "string_insertion", "simple_integration")
"""Some of those whose own scorer evaluates the answer."""
NOTHING = np.zeros(0, np.float32)
HARMLESS = "surely not the answer"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    folder = tmp_path / "host"
    folder.mkdir()
    made = Host(folder)
    yield made
    made.close()


def problem_of(task: str) -> Problem:
    source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=SMALL.get(task, {})), 0)
    return source.train_problem(0, 0, lambda key: True)


def completion(answer: str) -> Completion:
    return Completion(np.zeros(1, np.int32), f"<answer>{answer}</answer>", NOTHING, NOTHING, "stop")


def ask(rubric: Rubric, problems: Sequence[Problem], answers: Sequence[Sequence[str]]) -> list[list[RewardOutcome]]:
    """The outcome of `accuracy` for each problem's answers."""
    prompts = [Prompt("", ())] * len(problems)
    found = []
    for problem, prompt, said in zip(problems, prompts, answers, strict=True):
        scoring = rubric.scoring([problem], [prompt], len(said))
        for sample, answer in enumerate(said):
            scoring.add(0, sample, completion(answer))
        found.append([outcomes["accuracy"] for outcomes, _ in scoring.results()[0]])
    return found


def accuracy_of(tasks: Sequence[str]) -> Rubric:
    judges = {task: {"kind": "reasoning-gym", "task": task} for task in tasks}
    part = {"name": "accuracy", "weight": 1.0, "builtin": None, "function": None, "params": {}}
    spec = {"answer": "answer-tag", "judges": judges, "parts": [part]}
    # One worker, so that it judges everything: what an answer does to it would show in all that follow.
    return Rubric(spec, (build_part(spec, 0),), 1.0, Limits(seconds=20.0, places=1))


@needs_sandbox
@pytest.mark.parametrize("share", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_no_answer_to_any_task_has_an_effect_as_reward(host: Host, share: int) -> None:
    """In the sandbox an answer takes a process: the quick test tries a fifth of them there, others for each task."""
    hostile = payloads(host)
    problems = [problem_of(task) for task in TASKS]
    gold = [[problem.answer or HARMLESS, HARMLESS] for problem in problems]
    with closing(accuracy_of(TASKS)) as rubric:
        before = ask(rubric, problems, gold)
        tried = [
            hostile[i % share :: share] if who_judges(problem.task) == "sandbox" else hostile
            for i, problem in enumerate(problems)
        ]
        attacked = ask(rubric, problems, tried)
        assert host.effects() == []
        for problem, answers, outcomes in zip(problems, tried, attacked, strict=True):
            rewarded = [a for a, o in zip(answers, outcomes, strict=True) if o.score is not None and o.score >= 0.5]
            assert rewarded == [], problem.task
            failed = [(a[:60], o.failure) for a, o in zip(answers, outcomes, strict=True) if o.failure is not None]
            assert failed == [], problem.task
        assert ask(rubric, problems, gold) == before
    for problem, (right, wrong) in zip(problems, before, strict=True):
        assert (1.0 if wrong.score is None else wrong.score) < 0.5, problem.task
        assert problem.answer is None or right.score == pytest.approx(1.0), problem.task


def test_the_same_answers_have_effects_where_they_are_evaluated(host: Host) -> None:
    """Else the tests above would show nothing."""
    code = (
        "import json, sys\n"
        "from reasoning_gym.factory import create_dataset\n"
        "data = create_dataset('spiral_matrix', seed=0)\n"
        "entry = data[0]\n"
        "for answer in json.load(sys.stdin):\n"
        "    try:\n"
        "        data.score_answer(answer, entry)\n"
        "    except BaseException:\n"
        "        pass\n"
    )
    attacks = [text for text in payloads(host)[:36] if "_exit" not in text]
    subprocess.run([sys.executable, "-c", code], input=json.dumps(attacks), text=True, timeout=120, check=False)
    assert len(host.effects()) >= 20


def score_with_command(task: str, host: Host, tmp_path: Path) -> list[dict[str, Any]]:
    """Rows of `rethink score`, as recorded in a run and as they come in a file; the last is the gold answer."""
    problem = problem_of(task)
    dataset = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=SMALL.get(task, {})), 0)
    entry = json.loads(json.dumps(dataset._entry(0, problem.metadata["index"])["metadata"], default=str))
    rows = []
    for metadata in (dict(problem.metadata), {"metadata": entry}):
        base = {"question": problem.question, "answer": problem.answer, **metadata}
        rows += [base | {"completion": f"<answer>{answer}</answer>"} for answer in [*payloads(host), HARMLESS]]
    rows.append({**rows[0], "completion": f"<answer>{problem.answer or HARMLESS}</answer>"})
    data, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", "--data", str(data), "--out", str(out), "--reward", task, "--json"]) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in written if (row["score"] or 0) >= 0.5] == [len(rows)] * (problem.answer is not None)
    return written


@pytest.mark.parametrize("task", CONFIRMED[:2])
def test_no_answer_has_an_effect_in_score(task: str, host: Host, tmp_path: Path) -> None:
    score_with_command(task, host, tmp_path)
    assert host.effects() == []


def judge_in_eval(task: str, host: Host) -> None:
    problem = problem_of(task)
    grader = find_benchmark(task).grader
    for answer in payloads(host):
        for turn in (f"<answer>{answer}</answer>", f"\\boxed{{{answer}}}"):
            verdict = grader.judge(problem, turn)
            assert verdict.score is None or verdict.score < 0.5, answer


@pytest.mark.parametrize("task", CONFIRMED[2:])
def test_no_answer_has_an_effect_in_eval(task: str, host: Host) -> None:
    judge_in_eval(task, host)
    assert host.effects() == []


def train_on(task: str, host: Host, tmp_path: Path, model: Path) -> None:
    """A step of training whose fifty completions are the payloads."""
    path, out = tmp_path / f"{task}.yaml", tmp_path / f"run-{task}"
    path.write_text(
        f"name: hostile\nsteps: 1\nthreads: 1\nmodel: {{path: {model}, dtype: float32}}\n"
        'prompt: {template: raw, instruction: "{question}"}\n'
        f"tasks: [{{kind: reasoning-gym, name: {task}, params: {json.dumps(SMALL.get(task, {}))}}}]\n"
        "rollout: {prompts_per_batch: 1, group_size: 50, max_new_tokens: 4}\n"
        "reward: {parts: [{name: accuracy}], max_failure_share: 0}\n"
        "evaluation: {problems: 0}\n"
    )
    hostile = payloads(host)
    engine = ScriptedEngine(lambda _, sample: f"<answer>{hostile[sample]}</answer>", lambda text: [1])
    train(load_recipe(path), out, progress=make_progress("none"), engine_factory=lambda *_: engine)
    rewards = [row["reward"] for row in RunFolder.open(out).rollout_rows(0)]
    assert len(rewards) == 50
    assert all(reward is None or reward < 0.5 for reward in rewards)


def test_no_answer_has_an_effect_in_training(host: Host, tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    train_on("countdown", host, tmp_path, tiny_folder("llama", max_position_embeddings=1024))
    assert host.effects() == []


@pytest.mark.slow
@needs_sandbox
@pytest.mark.timeout(3000)
def test_no_answer_to_any_task_has_an_effect_in_training(
    host: Host, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    model = tiny_folder("llama", max_position_embeddings=8192)
    for task in TASKS:
        train_on(task, host, tmp_path, model)
        assert host.effects() == [], task


@pytest.mark.slow
@needs_sandbox
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("how", [score_with_command, judge_in_eval])
def test_no_answer_to_any_task_has_an_effect_in_score_and_eval(
    how: Callable[..., Any], host: Host, tmp_path: Path
) -> None:
    for task in TASKS:
        how(task, host, *([tmp_path] if how is score_with_command else []))
        assert host.effects() == [], task
