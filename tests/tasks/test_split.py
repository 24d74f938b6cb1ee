"""Training and held-out problems never share a question, whatever the sources, seeds and curricula."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.recipe_files import load_recipe, parse_recipe
from rethink.tasks.gym.library import make_dataset
from rethink.tasks.split import hash_says_held_out, question_key, split_key, split_of


def recipe(tasks: str, *overrides: str) -> Recipe:
    return parse_recipe(f"name: t\nsteps: 20\ntasks:\n{tasks}", "test", overrides)


GYM = "  - {kind: reasoning-gym, name: chain_sum, params: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}\n"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_domain_is_cut_in_two(seed: int) -> None:
    mix = task_mix(recipe(GYM, f"seed={seed}"))
    trained = {split_key(p.question) for i in range(60) for p in mix.train_batch(i, 8, i)}
    held_out = [question_key(p.question) for p in mix.held_out(200)]
    assert len(trained) > 60  # of about 100 collections in all
    assert len(held_out) == len(set(held_out)) > 10
    assert not trained & {split_key(p.question) for p in mix.held_out(200)}


def test_no_held_out_problem_of_the_quickstart_has_a_twin_in_training() -> None:
    """Twins are counted here by the numbers alone, without the code under test."""
    values = load_recipe("quickstart", [])
    mix = task_mix(values)
    sums = {numbers(p.question) for i in range(values.steps) for p in mix.train_batch(i, 8, i)}
    held_out = mix.held_out(values.evaluation.problems)
    assert len(held_out) == values.evaluation.problems
    assert not [p.question for p in held_out if numbers(p.question) in sums]


def numbers(question: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall("[0-9]+", question)))


def test_held_out_problems_do_not_depend_on_the_seed() -> None:
    first, second = (task_mix(recipe(GYM, f"seed={seed}")).held_out(20) for seed in (0, 1))
    assert [p.question for p in first] == [p.question for p in second]


def test_curriculum_stages_are_cut_by_the_same_rule() -> None:
    stages = GYM.replace("}}\n", "}, curriculum: [{step: 5, params: {max_terms: 3}}]}\n")
    mix = task_mix(recipe(stages))
    trained = {split_key(p.question) for i in range(20) for p in mix.train_batch(i, 8, i)}
    problems = mix.held_out(100)
    held_out = {split_key(p.question) for p in problems}
    assert len(problems) == 100
    assert not trained & held_out


def write_rows(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return str(path)


def test_a_question_in_two_files_falls_on_one_side(tmp_path: Path) -> None:
    shared = [f"What is {i} + {i}?" for i in range(100)]
    one = write_rows(tmp_path / "one.jsonl", shared)
    two = write_rows(tmp_path / "two.jsonl", [f"  what IS {i} +  {i}? " for i in range(100)])
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {one}}}\n  - {{kind: jsonl, name: {two}}}\n"))
    trained = {question_key(p.question) for i in range(40) for p in mix.train_batch(i, 8, i)}
    held_out = {question_key(p.question) for p in mix.held_out(50)}
    assert held_out
    assert not trained & held_out
    assert trained | held_out == {question_key(q) for q in shared}


def test_a_separate_file_is_held_out_whole_and_nobody_trains_on_it(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [f"Question {i}" for i in range(60)])
    test = write_rows(tmp_path / "test.jsonl", [f"Question {i}" for i in range(50, 70)])
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {train}, held_out: {test}}}\n"))
    trained = {p.question for i in range(20) for p in mix.train_batch(i, 8, i)}
    held_out = {p.question for p in mix.held_out(50)}
    assert held_out == {f"Question {i}" for i in range(50, 70)}
    assert trained == {f"Question {i}" for i in range(50)}


keys = st.sets(st.integers(0, 63))


@settings(max_examples=200, deadline=None)
@given(sources=st.lists(st.tuples(st.booleans(), keys, keys), min_size=1, max_size=4))
def test_no_key_is_on_both_sides(sources: list[tuple[bool, set[int], set[int]]]) -> None:
    """(separate file?, training keys, held-out keys) of several sources: all that may be trained on, against all that
    may be held out."""
    split = split_of((train, held) for separate, train, held in sources if separate)
    trained = {k for separate, train, _ in sources for k in train if split.trains(k, separate=separate)}
    held_out = {
        k for separate, train, held in sources for k in (held if separate else train)
        if separate or split.holds_out(k)
    }  # fmt: skip
    assert not trained & held_out


def test_a_training_row_whose_twin_is_in_the_held_out_file_is_not_trained_on(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", ["What is 3 + 5?", "What is 4 + 4?", "Add it up."])
    test = write_rows(tmp_path / "test.jsonl", ["Compute 5 + 3."])
    mix = task_mix(recipe(f"  - {{kind: jsonl, name: {train}, held_out: {test}}}\n"))
    assert {p.question for p in mix.train_batch(0, 8, 0)} == {"What is 4 + 4?", "Add it up."}


@pytest.mark.parametrize(
    ("question", "twin"),
    [
        ("What is 3 + 5?", "Compute 5 + 3."),
        ("Calculate 7 - 4 + 12.", "Calculate 12 + 7 - 4."),
        ("Calculate -4 + 7.", "Calculate 7 - 4."),
        ("Calculate 5 - 3 * 4.", "Calculate 5 - 4 * 3."),
        ("Calculate ( 3 + 4 ) * 2.", "Calculate 2 * ( 4 + 3 )."),
        ("Calculate ( 3 + 4 ) + 5.", "Calculate 3 + ( 4 + 5 )."),
        ("What is 1,200 + 3?", "3 + 1200 = ?"),
        ("What is 3 x 5?", "What is $5 \\times 3$?"),
        ("What is 3 plus 5?", "What is 5 + 3?"),
        ("(0.664*6.635)-4.5 = ?", "6.635*0.664 - 4.5 = ?"),
        ("Tom eats 2 + 3 figs.", "Tom eats 3 + 2 figs."),
        ("Mary has 2 sisters and she also has 3 brothers.", "Mary has 3 brothers and she also has 2 sisters."),
        ("What is the sum of 3, 5 and 9?", "What is the sum of 9, 3 and 5?"),
    ],
)
def test_twins_share_a_key(question: str, twin: str) -> None:
    assert split_key(question) == split_key(twin)
    assert question_key(question) != question_key(twin)


@pytest.mark.parametrize(
    ("question", "other"),
    [
        ("What is 3 + 5?", "What is 3 * 5?"),
        ("What is 3 + 5?", "What is 3 + 6?"),
        ("Tom eats 2 + 3 figs.", "Ann eats 2 + 3 figs."),
        ("3, 1, 2, 1, ?", "1, 2, 3, 1, ?"),  # a sequence
        ("Rotate the matrix:\n0 1\n1 0", "Rotate the matrix:\n1 0\n0 1"),
        ("The dog bit the man. Who bled?", "The man bit the dog. Who bled?"),
    ],
)
def test_other_questions_have_keys_of_their_own(question: str, other: str) -> None:
    assert split_key(question) != split_key(other)


COLLECTIONS = (
    "gcd", "lcm", "countdown", "puzzle24", "number_sorting", "word_sorting", "leg_counting", "sentence_reordering",
    "group_anagrams", "palindrome_generation", "dice",
)  # fmt: skip


@pytest.mark.parametrize("task", COLLECTIONS)
def test_a_collection_of_reasoning_gym_in_another_order_is_a_twin(task: str) -> None:
    question = make_dataset(task, {"size": 8})[3]["question"]
    separator = " " if task == "sentence_reordering" else ", "
    given = max(re.split(r"[\n.:?] ?", question), key=lambda found: found.count(separator))
    if task == "sentence_reordering":
        given = question.partition(": ")[2]
    items = given.split(separator)
    parts = sorted(random.Random(0).sample(items, len(items)), key=lambda part: part == items[0])
    twin = question.replace(given, separator.join(parts))
    assert question_key(twin) != question_key(question)
    assert split_key(twin) == split_key(question)


@pytest.mark.parametrize(
    "task", ["chain_sum", "decimal_chain_sum", "products", "basic_arithmetic", "decimal_arithmetic"]
)
def test_arithmetic_of_reasoning_gym_is_known_by_its_parts(task: str) -> None:
    """The key changes with a number and with an operator, and with nothing that a reordering changes."""
    question = make_dataset(task, {"size": 8})[3]["question"]
    last = re.findall(r"[0-9.]*[0-9]", question)[-1]
    head, _, tail = question.rpartition(last)
    assert split_key(f"{head}{last}7{tail}") != split_key(question)
    assert split_key(f"{head}{last} - {last}{tail}") != split_key(question)
    assert split_key(f"{head}({last}){tail}") == split_key(question)


def test_the_key_ignores_case_white_space_and_width() -> None:
    assert question_key("What is 1+1?") == question_key("  what  IS \n1+1?") == question_key("Ｗhat is 1+1?")
    assert question_key("1+1") != question_key("1+2")
    split_key("\ud800")  # a lone surrogate, as JSON may carry it


def test_one_question_in_six_is_held_out() -> None:
    share = sum(hash_says_held_out(split_key(f"question {i}")) for i in range(8000)) / 8000
    assert 0.15 < share < 0.185
