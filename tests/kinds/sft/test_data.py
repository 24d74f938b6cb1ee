"""Which document comes when, what is held out, and what is refused before anything slow starts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import ModelError, TaskError
from rethink.kinds.sft.data import Mixture, TrainingData, load_data
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.model.text.thoughts import parse_completion
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.recipe_files import load_recipe, parse_recipe
from rethink.tasks.conversations import read_conversations
from tests.paths import ROOT


def write(path: Path, prompts: list[str], completion: str = "yes") -> Path:
    path.write_text("".join(json.dumps({"prompt": p, "completion": completion}) + "\n" for p in prompts))
    return path


def recipe(*paths: Path, **fields: Any) -> SFTRecipe:
    data = fields.pop("data", [{"path": str(path)} for path in paths])
    text = json.dumps({"name": "t", "kind": "sft", "epochs": 1, "data": data, **fields})
    found = parse_recipe(text, "test")
    assert isinstance(found, SFTRecipe)
    return found


def texts(tokenizer: Tokenizer, data: TrainingData, steps: int, size: int) -> list[str]:
    return [tokenizer.decode(d.token_ids) for step in range(steps) for d in data.batch(step, size)]


def test_what_rounding_leaves_goes_to_the_largest_remainder() -> None:
    assert Mixture([4, 4, 3], [0.5, 0.3, 0.2], 0).counts == [6, 3, 2]  # 5.5, 3.3 and 2.2 of 11
    assert Mixture([5, 3, 2], [0.25, 0.55, 0.2], 0).counts == [3, 5, 2]  # 2.5 and 5.5: the first of equals
    assert Mixture([1, 2, 7], None, 0).counts == [1, 2, 7]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 5),
    weights=st.none() | st.lists(st.floats(0.05, 10), min_size=4, max_size=4),
)
@settings(max_examples=60)
def test_every_epoch_has_its_shares_and_rows_come_round(
    sizes: list[int], seed: int, weights: list[float] | None
) -> None:
    shares = None if weights is None else weights[: len(sizes)]
    mixture = Mixture(sizes, shares, seed)
    assert mixture.epoch == sum(sizes) == sum(mixture.counts)
    drawn = [mixture.place(i) for i in range(5 * mixture.epoch)]
    for epoch in range(5):
        part = Counter(number for number, _ in drawn[epoch * mixture.epoch : (epoch + 1) * mixture.epoch])
        assert [part[number] for number in range(len(sizes))] == mixture.counts
    if shares is not None:
        for count, share in zip(mixture.counts, shares, strict=True):
            assert abs(count - share * mixture.epoch / sum(shares)) < 1
    else:
        assert mixture.counts == sizes
    for number, size in enumerate(sizes):
        seen = [row for label, row in drawn if label == number]
        passes = [seen[i : i + size] for i in range(0, len(seen) - size + 1, size)]
        assert all(sorted(rows) == list(range(size)) for rows in passes)


def test_the_order_is_the_seeds_and_needs_no_history() -> None:
    whole = [Mixture([30, 50], [1, 1], 7).place(i) for i in range(200)]
    again = Mixture([30, 50], [1, 1], 7)
    assert [again.place(i) for i in (150, 3, 90, 199, 0)] == [whole[i] for i in (150, 3, 90, 199, 0)]
    assert [Mixture([30, 50], [1, 1], 8).place(i) for i in range(200)] != whole
    assert whole[:4] == [(1, 2), (1, 16), (0, 24), (1, 38)]  # pinned: a later version resumes earlier runs


def test_a_set_of_weight_0_takes_no_part() -> None:
    mixture = Mixture([5, 7], [0, 2], 0)
    assert mixture.epoch == 7
    assert {mixture.place(i)[0] for i in range(20)} == {1}


def test_epochs_are_rounded_up_to_whole_steps(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    path = write(tmp_path / "a", [f"q{i}" for i in range(10)])
    off = {"evaluation": {"share": 0}}
    for epochs, size, steps in ((1, 5, 2), (1, 4, 3), (2.1, 1, 21), (0.1, 4, 1), (3, 16, 2)):
        chosen = recipe(path, epochs=epochs, batch_sequences=size, **off)
        data = load_data(chosen, small_tokenizer, None)
        assert data.steps(chosen) == steps
        assert len(data.batch(steps - 1, size)) == size
    data = load_data(recipe(path, **off), small_tokenizer, None)
    assert len(set(texts(small_tokenizer, data, 2, 5))) == 10


def test_held_out_prompts_are_never_trained_on(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    """Disjoint by prompt, over all sets, whatever the seed; one document of each prompt."""
    first = write(tmp_path / "a", [f"q{i % 20}" for i in range(60)], "yes")
    second = write(tmp_path / "b", [f"Q{i}  " for i in range(30)], "no")  # the same questions, written otherwise
    section = {"evaluation": {"share": 0.2}}
    held = []
    for seed in (0, 1):
        data = load_data(recipe(first, second, seed=seed, **section), small_tokenizer, None)
        held.append([small_tokenizer.decode(d.token_ids) for d in data.held_out])
        trained = {small_tokenizer.decode(d.token_ids).casefold() for s in data.sets for d in s.documents}
        questions = {text.split("user\n")[1].split("<")[0].strip().casefold() for text in held[-1]}
        assert len(questions) == len(held[-1]) == 6
        assert not any(f"user\n{question}<" in text.replace(" ", "") for question in questions for text in trained)
        assert sum(s.held_out for s in data.sets) == 90 - sum(len(s.documents) for s in data.sets)
    assert held[0] == held[1]
    limited = load_data(recipe(first, evaluation={"share": 0.5, "limit": 3}), small_tokenizer, None)
    assert len(limited.held_out) == 3
    assert limited.sets[0].held_out == 9


def test_long_rows_are_refused_or_counted(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, ["q1", "q2", "why " * 100, "q3"])
    with pytest.raises(
        TaskError, match=r"rows\.jsonl`, line 3, has \d+ tokens, and max_tokens allows 60.*overlong=drop"
    ):
        load_data(recipe(path, max_tokens=60), small_tokenizer, 256)
    with pytest.raises(TaskError, match=r"line 3, has \d+ tokens, and the model's context is 80"):
        load_data(recipe(path, max_tokens=90), small_tokenizer, 80)
    data = load_data(recipe(path, max_tokens=60, overlong="drop", evaluation={"share": 0}), small_tokenizer, 256)
    assert data.sets[0].facts() == {"path": str(path), "rows": 4, "dropped": 1, "held_out": 0, "trained": 3}
    with pytest.raises(TaskError, match=r"all 4 rows of .* are longer than 3 tokens"):
        load_data(recipe(path, max_tokens=3, overlong="drop"), small_tokenizer, 256)


def test_what_leaves_nothing_to_train_on(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    same = write(tmp_path / "same", ["q"] * 5)
    with pytest.raises(TaskError, match=r"all rows have the same prompt.*evaluation\.share=0"):
        load_data(recipe(same), small_tokenizer, None)
    assert load_data(recipe(same, evaluation={"share": 0}), small_tokenizer, None).mixture.epoch == 5
    held = load_data(recipe(write(tmp_path / "two", ["q", "p"])), small_tokenizer, None)
    assert (held.mixture.epoch, len(held.held_out)) == (1, 1)


def test_the_shipped_rows_are_sound(small_tokenizer: Tokenizer) -> None:
    chosen = load_recipe("sft")
    assert isinstance(chosen, SFTRecipe)
    rows = read_conversations(str(ROOT / chosen.data[0].path)).rows
    assert len(rows) == len({row.prompt_key for row in rows}) == 40
    for row in rows:
        parsed = parse_completion(row.messages[-1]["content"])
        assert parsed.well_formed
        boxes, of, gone = (int(n) for n in re.findall(r"\d+", row.messages[0]["content"]))
        assert parsed.answer == str(boxes * of - gone)


def test_a_student_without_a_chat_template(tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    bare = Tokenizer(small_tokenizer.backend, {**small_tokenizer.config, "chat_template": None})
    path = write(tmp_path / "a", ["q1", "q2"])
    with pytest.raises(ModelError, match=r"no chat template.*prompt\.template to r1-zero or raw"):
        load_data(recipe(path), bare, None)
    assert load_data(recipe(path, prompt={"template": "r1-zero"}), bare, None).mixture.epoch == 1
