"""Setting up a run: what is found before anything slow, and what a refused run leaves behind (nothing)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.errors import ModelError, RecipeError, RunFolderError, TaskError, UsageError
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.recipe_files import load_recipe
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.run_folder import RunFolder
from rethink.tasks.split import hash_says_held_out, question_key
from tests.models import GPT2_SHAPE, tiny_model

Run = Callable[..., dict[str, Any]]
SHORT = (
    *("steps=1", "optimizer.warmup_steps=0"),
    *("evaluation.problems=0", "evaluation.every=null", "evaluation.every_problems=null"),
)


def rows(path: Path, questions: list[str]) -> str:
    """A JSONL source of these questions, as an override."""
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return f"tasks=[{{kind: jsonl, name: {path}}}]"


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("tasks.0.name=chain_summ", TaskError),
        ("reward.parts.1.function=rewards_for_tests:leters", RecipeError),
        ("prompt.template=chat", None),
    ],
)
def test_a_refused_run_leaves_its_folder_free(
    run: Run, tmp_path: Path, override: str, error: type[UsageError] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "out"
    if error is None:  # a chat template that fails on the prompt
        monkeypatch.setattr("rethink.model.tokenizer.tokenizer.Tokenizer.render_chat", refuse)
        error = ModelError
    with pytest.raises(error):
        run(out, *SHORT, override)
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(out, *SHORT)["finished"]


def refuse(*_: object, **__: object) -> str:
    raise ModelError("the template refuses")


def test_a_refused_resume_keeps_everything(run: Run, tmp_path: Path, recipe_file: Path) -> None:
    out = tmp_path / "out"
    run(out, *SHORT)
    before = sorted(out.rglob("*"))
    (tmp_path / "rewards_for_tests.py").rename(tmp_path / "gone.py")
    sys.modules.pop("rewards_for_tests", None)
    with pytest.raises(RunFolderError, match=r"rewards_for_tests\.py.*not found any more"):
        run(out, "steps=2", *SHORT[1:], resume=True)
    assert sorted(out.rglob("*")) == before


def test_a_row_too_long_for_the_context_is_found_before_the_run(run: Run, tmp_path: Path) -> None:
    questions = [f"{i} + 1 = ?" for i in range(30)]
    run(tmp_path / "fits", *SHORT, rows(tmp_path / "fits.jsonl", questions))
    long = rows(tmp_path / "long.jsonl", [*questions, "word " * 300, "word  " * 301])
    with pytest.raises(TaskError, match=r"long/(train|held-out)/3[01]' has \d+ tokens"):
        run(tmp_path / "long", *SHORT, long)
    assert not (tmp_path / "long").exists()


def test_a_file_without_a_problem_to_train_on_is_refused_before_the_evaluation(run: Run, tmp_path: Path) -> None:
    held_out = [q for q in (f"{i}?" for i in range(100)) if hash_says_held_out(question_key(q))]
    with pytest.raises(TaskError, match="no problem left to train on"):
        run(tmp_path / "out", rows(tmp_path / "rows.jsonl", held_out))
    assert not (tmp_path / "out").exists()


def test_room_is_kept_for_the_longest_completion_of_the_run(recipe_file: Path) -> None:
    def longest(*overrides: str) -> int:
        return load_recipe(recipe_file, overrides).longest_completion

    assert longest() == 6
    assert longest("rollout.max_new_tokens={0: 8, 2: 40, 4: 8}") == 40
    assert longest("rollout.max_new_tokens={0: 8, 2: 40, 4: 8}", "steps=2", "optimizer.warmup_steps=1") == 8
    assert longest("evaluation.max_new_tokens=50") == 50
    assert longest("evaluation.max_new_tokens=50", *SHORT[2:]) == 6


def test_a_prompt_beside_the_longest_limit_is_refused_though_it_fits_the_first(run: Run, tmp_path: Path) -> None:
    source = rows(tmp_path / "rows.jsonl", [f"{i} " + "a b " * 30 for i in range(40)])
    with pytest.raises(TaskError, match="the context of"):
        run(tmp_path / "out", source, *SHORT[2:], "rollout.max_new_tokens={0: 4, 2: 250, 4: 4}")


@pytest.mark.parametrize("below", ["file/out", "file/a/b", "n" * 300])
def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be made .*choose another `--out`"):
        run(tmp_path / below)


def test_the_peak_of_a_resumed_run_is_that_of_its_highest_process(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, *SHORT)
    path = out / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["memory/peak_rss_mb"] = 1e6
    del lines[-1]["checksum"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(out, "steps=2", *SHORT[1:], resume=True)["peak_rss_mb"] == 1e6


def test_many_differences_are_not_all_listed(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, *SHORT)
    changed = [f"rollout.{key}" for key in ("temperature=0.5", "group_size=4", "max_new_tokens=5", "max_concurrent=3")]
    with pytest.raises(RunFolderError, match=r"`seed` was 0.*; and 1 more\. Undo"):
        run(out, *SHORT, *changed, "seed=4")
    assert RunFolder.open(out).metrics()


def test_an_engine_that_cannot_run_the_model_is_refused(run: Run, tmp_path: Path, small_tokenizer: Tokenizer) -> None:
    model = tiny_model("GPT2", seed=0, **GPT2_SHAPE, n_positions=64, vocab_size=small_tokenizer.vocab_size + 7)
    model.save_pretrained(tmp_path / "gpt2")
    small_tokenizer.save(tmp_path / "gpt2")
    source = f"model.path={tmp_path / 'gpt2'}"
    with pytest.raises(ModelError, match=r"engine `torch` cannot run .*Leave the engine at `auto`"):
        run(tmp_path / "out", *SHORT, source, "rollout.engine=torch")
    with pytest.raises(RecipeError, match=r"`rollout.max_new_tokens` is 64, but the model's context of 64"):
        run(tmp_path / "out", *SHORT, source, "rollout.max_new_tokens=64")
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "out", *SHORT, source)["finished"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RecipeError, match="`device=auto`"):
        run(out, *SHORT, "device=cuda")
    assert not out.exists()
    run(out, *SHORT)
    header = read_sealed(out / "run.json") or {}
    header["choices"]["device"] = "cuda"
    write_sealed(out / "run.json", header)
    with pytest.raises(RunFolderError, match="started on CUDA"):
        run(out, "steps=2", *SHORT[1:], resume=True)
