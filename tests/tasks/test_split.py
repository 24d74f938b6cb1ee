"""Training and held-out problems never share a question, whatever the sources, seeds and curricula."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.recipe.loading import parse_recipe
from rethink.recipe.schema import Recipe
from rethink.tasks.mix import build_task_mix
from rethink.tasks.split import hash_says_held_out, question_key, split_of


def recipe(tasks: str, *overrides: str) -> Recipe:
    return parse_recipe(f"name: t\nsteps: 20\ntasks:\n{tasks}", "test", overrides)


GYM = "  - {kind: reasoning-gym, name: chain_sum, params: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}\n"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_small_domain_is_cut_in_two(seed: int) -> None:
    mix = build_task_mix(recipe(GYM, f"seed={seed}"))
    trained = {question_key(p.question) for i in range(60) for p in mix.train_batch(i, 8, i)}
    held_out = [question_key(p.question) for p in mix.held_out(200)]
    assert len(trained) > 100  # of about 180 questions in all
    assert len(held_out) == len(set(held_out)) > 10
    assert not trained & set(held_out)


def test_held_out_problems_do_not_depend_on_the_seed() -> None:
    first, second = (build_task_mix(recipe(GYM, f"seed={seed}")).held_out(20) for seed in (0, 1))
    assert [p.question for p in first] == [p.question for p in second]


def test_curriculum_stages_are_cut_by_the_same_rule() -> None:
    stages = GYM.replace("}}\n", "}, curriculum: [{step: 5, params: {max_terms: 3}}]}\n")
    mix = build_task_mix(recipe(stages))
    trained = {question_key(p.question) for i in range(20) for p in mix.train_batch(i, 8, i)}
    held_out = {question_key(p.question) for p in mix.held_out(100)}
    assert len(held_out) == 100
    assert not trained & held_out


def write_rows(path: Path, questions: list[str]) -> str:
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return str(path)


def test_a_question_in_two_files_falls_on_one_side(tmp_path: Path) -> None:
    shared = [f"What is {i} + {i}?" for i in range(100)]
    one = write_rows(tmp_path / "one.jsonl", shared)
    two = write_rows(tmp_path / "two.jsonl", [f"  what IS {i} +  {i}? " for i in range(100)])
    mix = build_task_mix(recipe(f"  - {{kind: jsonl, name: {one}}}\n  - {{kind: jsonl, name: {two}}}\n"))
    trained = {question_key(p.question) for i in range(40) for p in mix.train_batch(i, 8, i)}
    held_out = {question_key(p.question) for p in mix.held_out(50)}
    assert held_out
    assert not trained & held_out
    assert trained | held_out == {question_key(q) for q in shared}


def test_a_separate_file_is_held_out_whole_and_nobody_trains_on_it(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [f"Question {i}" for i in range(60)])
    test = write_rows(tmp_path / "test.jsonl", [f"Question {i}" for i in range(50, 70)])
    mix = build_task_mix(recipe(f"  - {{kind: jsonl, name: {train}, held_out: {test}}}\n"))
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


def test_the_key_ignores_case_white_space_and_width() -> None:
    assert question_key("What is 1+1?") == question_key("  what  IS \n1+1?") == question_key("Ｗhat is 1+1?")
    assert question_key("1+1") != question_key("1+2")
    question_key("\ud800")  # a lone surrogate, as JSON may carry it


def test_one_question_in_six_is_held_out() -> None:
    share = sum(hash_says_held_out(question_key(f"question {i}")) for i in range(8000)) / 8000
    assert 0.15 < share < 0.185
