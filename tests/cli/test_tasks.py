"""`rethink tasks`: the list, and problems as a model will see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main

Tasks = Callable[..., dict[str, Any]]


@pytest.fixture
def tasks(tiny_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> Tasks:
    """`tasks(*words)` -> the JSON object, with a tiny model's chat template."""
    model = str(tiny_folder("llama", max_position_embeddings=512))

    def run(*words: str | Path) -> dict[str, Any]:
        assert main.main(["tasks", *map(str, words), "--model", model, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_the_list_names_every_task_and_who_judges_it(capsys: pytest.CaptureFixture[str]) -> None:
    from reasoning_gym.factory import DATASETS

    assert main.main(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {task["name"] for task in listed["tasks"]} == set(DATASETS)
    judges = {task["name"]: task["judge"] for task in listed["tasks"]}
    assert (judges["countdown"], judges["sokoban"], judges["codeio"]) == ("ours", "sandbox", "refused")
    assert set(listed["sources"]) == {"reasoning-gym", "jsonl", "hub", "python"}
    assert main.main(["tasks"]) == 0
    assert "\nchain_sum " in capsys.readouterr().out


def test_problems_are_those_of_a_run(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    from rethink.kinds.grpo.data import task_mix
    from rethink.recipe.recipe_files import parse_recipe

    found = tasks("chain_sum", "--show", "2", "--option", "max_terms=2", "--option", "max_digits=1")
    recipe = parse_recipe(
        "name: x\nsteps: 1\ntasks: [{kind: reasoning-gym, name: chain_sum, params: {max_terms: 2, max_digits: 1}}]",
        "It",
    )
    mix = task_mix(recipe)  # type: ignore[arg-type]
    expected = [*mix.train_batch(0, 2, 0), *mix.held_out(2)]
    assert [(p["id"], p["question"], p["gold"]) for p in found["problems"]] == [
        (p.id, p.question, p.answer) for p in expected
    ]
    assert [p["held_out"] for p in found["problems"]] == [False, False, True, True]
    first = found["problems"][0]
    assert first["prompt"] == f"<|im_start|>user\n{first['question']}<|im_end|>\n<|im_start|>assistant\n"
    assert first["prompt_tokens"] > 5


def test_rows_with_their_keys_and_the_prompt_of_a_recipe(tasks: Tasks, tmp_path: Path) -> None:
    rows, recipe = tmp_path / "rows.jsonl", tmp_path / "mine.yaml"
    rows.write_text("".join(json.dumps({"ask": f"What is {i}?", "said": f"so #### {i}"}) + "\n" for i in range(60)))
    recipe.write_text(
        'name: mine\nsteps: 1\nprompt: {template: raw, instruction: "Q: {question} A:", prefill: "<think>"}\n'
        "tasks: [{kind: reasoning-gym, name: chain_sum}]\n"
    )
    words = [rows, "--option", "question_key=ask", "--option", "answer_key=said", "--recipe", recipe, "--show", "1"]
    problem = tasks(*words)["problems"][0]
    assert problem["prompt"] == f"Q: {problem['question']} A:<think>"
    assert problem["question"] == f"What is {problem['gold']}?"
    assert tasks("--recipe", recipe, "--show", "1")["tasks"] == [
        {"kind": "reasoning-gym", "name": "chain_sum", "params": {}}
    ]


def test_too_few_rows_hold_nothing_out(tasks: Tasks, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "2 + 3?", "answer": "5"}\n')
    found = tasks(rows, "--show", "1")
    assert found["held_out"].startswith("none: no held-out problems")


@pytest.mark.parametrize(("words", "says"), [
    (["chain_summ"], "did you mean chain_sum"),
    (["chain_sum", "--option", "max_trems=3"], "its parameters are min_terms"),
    (["chain_sum", "--option", "max_terms"], "write it as key=value"),
    (["missing.jsonl"], "missing.jsonl"),
    (["--recipe", "r1"], "of the kind `pipeline`"),
    (["--recipe", "quickstart", "--option", "a=1"], "no NAME is given"),
])  # fmt: skip
def test_refusals(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["tasks", *words]) == 2
    assert says in capsys.readouterr().err
