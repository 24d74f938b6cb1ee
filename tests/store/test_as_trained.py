"""`rethink.json` of a model: written by runs of every kind, read as a stranger's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UsageError
from rethink.recipe.recipe_files import load_recipe, shipped_recipes
from rethink.recipe.schema import PromptSection
from rethink.store.as_trained import MOST_BYTES, NAME, AsTrained, as_trained, read_as_trained, write_as_trained
from rethink.store.integrity import read_sealed

RECORD = as_trained(load_recipe("quickstart"), "a" * 64)


def written(folder: Path, **values: Any) -> Path:
    """A record that somebody changed, and meant it."""
    write_as_trained(folder, RECORD)
    record = read_sealed(folder / NAME) or {}
    (folder / NAME).write_text(json.dumps(record | values))
    return folder


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if "r1-distill" not in name])
def test_every_recipe_s_record_comes_back(name: str, tmp_path: Path) -> None:
    record = as_trained(load_recipe(name), "b" * 64)
    write_as_trained(tmp_path, record)
    assert read_as_trained(tmp_path) == record


def test_it_says_prompt_answer_rewards_tasks_and_evaluation(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    assert RECORD.prompt == recipe.prompt  # type: ignore[attr-defined]
    assert (RECORD.answer, [part.name for part in RECORD.rewards]) == ("answer-tag", ["accuracy", "format"])
    assert RECORD.tasks[0].params["max_terms"] == 3
    assert RECORD.held_out is not None
    assert (RECORD.held_out.problems, RECORD.held_out.max_new_tokens, RECORD.held_out.temperature) == (180, 64, 0.0)
    assert RECORD.said() == "template chat, 1 example, prefill '<think>'"


def test_a_model_that_was_fine_tuned_has_its_template(tmp_path: Path) -> None:
    record = as_trained(load_recipe("sft", ["data.0.path=x.jsonl", "prompt.system=Be brief."]), "b" * 64)
    assert record.prompt is not None
    assert record.prompt == PromptSection(system="Be brief.")
    assert (record.answer, record.tasks, record.held_out) == (None, (), None)


def test_a_meant_change_is_read(tmp_path: Path) -> None:
    found = read_as_trained(written(tmp_path, answer="boxed"))
    assert found is not None
    assert found.answer == "boxed"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 2}, "the format '2', and this version of Rethink reads 1"),
        ({"promt": {}}, "promt"),
        ({"prompt": {"template": "chatt"}}, "template"),
        ({"prompt": {"instruction": "no place"}}, "does not hold `{question}`"),
        ({"answer": "guess"}, "answer"),
        ({"tasks": [{"kind": "jsonl"}]}, "name"),
        ({"held_out": {"problems": 1, "temperature": "hot", "max_new_tokens": 1}}, "temperature"),
        ({"steps": "1"}, "steps"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=NAME) as refused:
        read_as_trained(written(tmp_path, **values))
    assert said in str(refused.value)
    assert "remove it to use the model as it is" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read"),
        (b"[]", "no object"),
        (b"[" * 5000, "nested too deeply"),
        (b'{"format": 1, "prompt": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", "100 levels"),
        (b'"' + b"a" * MOST_BYTES + b'"', "1,048,576 are allowed"),
        (b'{"a": "\\ud800"}', "half a surrogate"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_hostile_file_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_as_trained(tmp_path)
    assert said in str(refused.value)


def test_a_change_beneath_the_checksum_is_noticed(tmp_path: Path) -> None:
    write_as_trained(tmp_path, RECORD)
    path = tmp_path / NAME
    path.write_text(path.read_text().replace('"answer-tag"', '"boxed"'))
    with pytest.raises(UsageError, match=r"does not have its checksum.*remove the line `checksum`"):
        read_as_trained(tmp_path)


def test_nothing_there_and_an_earlier_version_s_say_nothing(tmp_path: Path) -> None:
    assert read_as_trained(tmp_path) is None
    (tmp_path / NAME).write_text('{"step": 4, "accuracy": 0.5}')
    assert read_as_trained(tmp_path) is None
    assert isinstance(RECORD, AsTrained)
