"""Which problem stands where: reproducible, mixed by weight, following the curriculum."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rethink.errors import TaskError
from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.recipe_files import parse_recipe
from rethink.tasks.judging import make_judge
from rethink.tasks.mix import _pick


def recipe(tasks: str, *overrides: str) -> Recipe:
    return parse_recipe(f"name: t\nsteps: 100\ntasks:\n{tasks}", "test", overrides)


def rows(path: Path, number: int = 30) -> str:
    path.write_text(
        "".join(json.dumps({"question": f"{path.stem} {i}", "answer": str(i)}) + "\n" for i in range(number))
    )
    return str(path)


def test_any_batch_can_be_drawn_first(tmp_path: Path) -> None:
    tasks = (
        f"  - {{kind: jsonl, name: {rows(tmp_path / 'a.jsonl')}, weight: 2}}\n"
        "  - {kind: reasoning-gym, name: leg_counting}\n"
    )
    in_order = task_mix(recipe(tasks))
    batches = [in_order.train_batch(i, 8, i) for i in range(6)]
    resumed = task_mix(recipe(tasks))
    assert resumed.train_batch(4, 8, 4) == batches[4]
    assert resumed.train_batch(5, 8, 5) == batches[5]
    assert resumed.train_batch(0, 8, 0) == batches[0]
    other = task_mix(recipe(tasks, "seed=1")).train_batch(0, 8, 0)
    assert other != batches[0]


def test_epochs_visit_every_row_once(tmp_path: Path) -> None:
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {rows(tmp_path / 'a.jsonl', 40)}}}\n"))
    total = 40 - len(mix.held_out(40))
    drawn = [p.id for i in range(2 * total) for p in mix.train_batch(i, 1, i)]
    assert len(set(drawn[:total])) == len(set(drawn[total:])) == total
    assert drawn[:total] != drawn[total:]


def test_weights_mix_and_change_with_the_curriculum(tmp_path: Path) -> None:
    tasks = (
        f"  - {{kind: jsonl, name: {rows(tmp_path / 'a.jsonl')}, weight: 3}}\n"
        f"  - {{kind: jsonl, name: {rows(tmp_path / 'b.jsonl')}, weight: 1, curriculum: [{{step: 50, weight: 0}}]}}\n"
    )
    mix = task_mix(recipe(tasks))
    early = Counter(p.task for i in range(50) for p in mix.train_batch(i, 8, i))
    assert 0.65 < early["a"] / early.total() < 0.85
    late = Counter(p.task for i in range(50, 60) for p in mix.train_batch(i, 8, i))
    assert set(late) == {"a"}
    assert {p.task for p in mix.held_out(20)} == {"a"}  # as at the end of the run


@pytest.mark.parametrize(
    ("uniform", "index"), [(0.0, 0), (0.2499, 0), (0.25, 2), (0.7499, 2), (0.75, 3), (1.0 - 2**-53, 3)]
)
def test_a_uniform_number_falls_on_the_share_of_a_weight(uniform: float, index: int) -> None:
    assert _pick([1.0, 0.0, 2.0, 1.0, 0.0], uniform) == index


def test_the_curriculum_changes_parameters() -> None:
    tasks = (
        "  - {kind: reasoning-gym, name: chain_sum, params: {min_terms: 2, max_terms: 2}, "
        "curriculum: [{step: 10, params: {min_terms: 5, max_terms: 5}}]}\n"
    )
    mix = task_mix(recipe(tasks))
    terms = [len(p.question.split(":")[1].split("=")[0].replace("-", "+").split("+")) for p in mix.train_batch(0, 8, 9)]
    assert terms == [2] * 8
    terms = [
        len(p.question.split(":")[1].split("=")[0].replace("-", "+").split("+")) for p in mix.train_batch(1, 8, 10)
    ]
    assert terms == [5] * 8


def test_gym_problems_are_scored_by_their_task() -> None:
    mix = task_mix(recipe("  - {kind: reasoning-gym, name: countdown}\n"))
    problem = mix.train_batch(0, 1, 0)[0]
    assert problem.answer is not None
    assert mix.gold_score(problem) == 1.0
    judge = make_judge(mix.judges()[problem.task])
    assert judge(problem, problem.answer) == 1.0
    assert judge(problem, "1 + 1") == 0.0
    json.dumps(dict(problem.metadata))  # must survive JSON


def test_an_entry_that_was_forgotten_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethink.tasks.gym.problems.REMEMBERED", 4)
    mix = task_mix(recipe("  - {kind: reasoning-gym, name: countdown}\n"))
    problems = mix.train_batch(0, 20, 0)
    assert [mix.gold_score(p) for p in problems] == [1.0] * 20


def test_a_gold_that_its_checker_refuses_is_found_before_training(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "q", "answer": "no number"}\n')
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {path}, checker: exact-number}}\n"))
    with pytest.raises(TaskError, match="is not right by its own checker"):
        mix.gold_check([*mix.train_batch(0, 1, 0)])


def test_golds_that_cannot_be_read_at_all_are_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(f'{{"question": "q{i}", "answer": null}}\n' for i in range(9)))
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {path}}}\n"))
    with pytest.raises(TaskError, match="can be read"):
        mix.gold_check(mix.train_batch(0, 4, 0))


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("{kind: reasoning-gym, name: chain_sun}", "chain_sum"),
        ("{kind: reasoning-gym, name: chain_sum, params: {terms: 3}}", "min_terms"),
        ("{kind: reasoning-gym, name: chain_sum, params: {min_terms: 5, max_terms: 2}}", "refuses"),
        ("{kind: jsonl, name: /nowhere/x.jsonl}", "cannot be read"),
        ("{kind: python, name: 'no_such_module:f'}", "no_such_module"),
        ("{kind: python, name: 'json:no_such_function'}", "no_such_function"),
    ],
)
def test_sources_that_cannot_be_read(task: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        task_mix(recipe(f"  - {task}\n"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no problems"),
        ('{"question": "q", "answer": "1"}\nnot json\n', "line 2, is not JSON"),
        ("[1]\n", "line 1 is list"),
        ('{"query": "q", "answer": "1"}\n', "has no key `question`"),
        ('{"question": " ", "answer": "1"}\n', "not empty"),
        ("[" * 100_000, "line 1, is not JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(TaskError, match=says):
        task_mix(recipe(f"  - {{kind: jsonl, name: {path}}}\n"))


def test_a_function_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task_for_test.py").write_text(
        "def load(n):\n"
        "    return [{'question': f'q{i}', 'answer': str(i), 'level': i} for i in range(n)]\n"
        "def judged(n):\n"
        "    return load(n), lambda problem, answer: 0.5\n"
        "def broken():\n"
        "    raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mix = task_mix(recipe("  - {kind: python, name: 'own_task_for_test:load', params: {n: 40}}\n"))
    problem = mix.train_batch(0, 1, 0)[0]
    assert problem.metadata == {"level": int(problem.answer or "")}
    assert make_judge(mix.judges()[problem.task])(problem, f" {problem.answer}.0") == 1.0
    mix = task_mix(recipe("  - {kind: python, name: 'own_task_for_test:judged', params: {n: 40}}\n"))
    problem = mix.train_batch(0, 1, 0)[0]
    assert make_judge(mix.judges()[problem.task])(problem, "anything") == mix.gold_score(problem) == 0.5
    with pytest.raises(TaskError, match="KeyError"):
        task_mix(recipe("  - {kind: python, name: 'own_task_for_test:broken'}\n"))
    with pytest.raises(TaskError, match="returns rows alone"):
        task_mix(recipe("  - {kind: python, name: 'own_task_for_test:load', params: {n: 4}, checker: task}\n"))


def test_a_hub_data_set_from_a_local_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = [{"question": f"What is {i} + 1?", "answer": f"reason\n#### {i + 1:,}"} for i in range(2000, 2040)]
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(made).to_parquet(tmp_path / "set" / "train.parquet")
    mix = task_mix(recipe(f"  - {{kind: hub, name: {tmp_path / 'set'}}}\n"))
    problem = mix.train_batch(0, 1, 0)[0]
    assert problem.answer == str(int(problem.question.split()[2]) + 1)
    with pytest.raises(TaskError, match="no-split"):
        task_mix(recipe(f"  - {{kind: hub, name: {tmp_path / 'set'}, split: no-split}}\n"))


def test_without_the_hub_one_error_says_what_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets
    from huggingface_hub.utils import logging

    def unreachable(*_: object, **__: object) -> None:
        logging.get_logger("huggingface_hub.test").warning("Retrying in 1s")
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    logging.enable_propagation()
    before = logging.get_verbosity()
    try:
        with pytest.raises(TaskError, match=r"no route.*tasks.kind=jsonl"):
            task_mix(recipe("  - {kind: hub, name: some/set}\n"))
    finally:
        logging.disable_propagation()
    assert "Retrying" not in caplog.text
    assert logging.get_verbosity() == before
